// The page's flow: choose, animate, watch, compare, download.
import { call, follow, playable, post, sentence, useKey } from "./api.js";
import * as camera from "./camera.js";
import * as motions from "./motions.js";

const $ = id => document.getElementById(id);
const chosen = { portrait: null, driving: null, motion: null };
const urls = {};
let job = null;

// theme
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
$("theme").onclick = () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("theme", document.documentElement.dataset.theme = dark ? "light" : "dark");
};

// inputs
function choose(role, file) {
  if (!file) return;
  const fits = role === "portrait" ? /^image\// : /^video\/|^image\/gif$|^application\/ogg$/, picture = file.type.startsWith("image/");
  if (file.type && !fits.test(file.type)) return fail(`“${file.name}” is not ${role === "portrait" ? "a picture" : "a video"}.`);
  fail("");
  chosen[role] = file;
  if (role === "driving") chosen.motion = null;
  if (urls[role]) URL.revokeObjectURL(urls[role]);
  urls[role] = URL.createObjectURL(file);
  const show = document.createElement(picture ? "img" : "video");
  if (picture) show.alt = role === "portrait" ? "The chosen portrait" : "The chosen driving video";
  else { show.muted = show.autoplay = show.loop = show.playsInline = true; }
  show.onerror = () => show.remove();  // the service may read what this browser cannot show
  show.src = urls[role];
  fill(role, file.name, show);
}
function fill(role, text, ...shown) {
  const drop = $(role + "-drop"), name = document.createElement("span");
  drop.querySelectorAll("img, video, .name").forEach(node => node.remove());
  name.className = "name";
  name.textContent = text;
  drop.append(...shown, name);
  drop.classList.add("full");
  ready();
}
function ready() {
  $("start").disabled = $("start").dataset.busy === "yes" || !(chosen.portrait && (chosen.driving || chosen.motion));
  $("keep").disabled = !chosen.driving;
}
for (const role of ["portrait", "driving"]) {
  const drop = $(role + "-drop");
  $(role).onchange = event => { choose(role, event.target.files[0]); press(role, null); };
  drop.ondragover = event => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = event => { event.preventDefault(); drop.classList.remove("over"); choose(role, event.dataTransfer.files[0]); press(role, null); };
}
$("keep").onclick = () => motions.keep(chosen.driving);

// samples
function press(role, button) {
  $(role + "-samples").querySelectorAll("button").forEach(other => other.setAttribute("aria-pressed", other === button));
}
async function samples() {
  const found = await (await fetch("/samples")).json();
  for (const [role, kind] of [["portrait", "portraits"], ["driving", "driving"]]) {
    for (const name of found[kind]) {
      const url = `/samples/${kind}/${encodeURIComponent(name)}`;
      const button = document.createElement("button");
      button.type = "button";
      button.title = name;
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label", `Sample ${role} ${name}`);
      const thumb = document.createElement(role === "portrait" ? "img" : "video");
      if (role === "portrait") { thumb.alt = ""; thumb.loading = "lazy"; } else { thumb.muted = true; thumb.preload = "metadata"; }
      thumb.src = url + (role === "driving" ? "#t=0.1" : "");
      button.append(thumb);
      button.onclick = async () => {
        press(role, button);
        const blob = await (await fetch(url)).blob();
        choose(role, new File([blob], name, { type: blob.type }));
      };
      $(role + "-samples").append(button);
      $(role + "-samples").hidden = false;
    }
  }
}

// a job
function fail(text) { $("error").textContent = text; $("error").hidden = !text; }
function left(seconds) {
  if (seconds == null) return "";
  return seconds < 90 ? `about ${Math.max(1, Math.round(seconds))} s left` : `about ${Math.round(seconds / 60)} min left`;
}
function busy(on) {
  $("start").dataset.busy = on ? "yes" : "no";
  $("start").textContent = on ? "Working…" : "Animate";
  $("work").hidden = !on;
  ready();
}
const STAGES = { uploading: "Uploading", waiting: "Waiting", preparing: "Finding the faces", denoising: "Animating", finishing: "Writing the video", done: "Done" };
function progress(state) {
  const percent = Math.round(100 * state.progress), bar = document.querySelector(".bar");
  const stage = STAGES[state.stage] || state.stage;
  if ($("stage").textContent !== stage) $("stage").textContent = stage;  // else a screen reader would repeat it
  $("eta").textContent = state.state === "queued" && state.ahead ? `${state.ahead} before you` : `${percent} %  ${left(state.eta_s)}`;
  bar.firstElementChild.style.width = percent + "%";
  bar.setAttribute("aria-valuenow", percent);
}
$("form").onsubmit = async event => {
  event.preventDefault();
  fail(""); busy(true);
  $("result").hidden = true;
  progress({ stage: "uploading", progress: 0, state: "queued", eta_s: null, ahead: 0 });
  const data = new FormData();
  data.append("portrait", chosen.portrait);
  if (chosen.motion) data.append("motion", chosen.motion.id); else data.append("driving", chosen.driving);
  for (const [name, value] of new FormData($("form"))) if (value !== "" && typeof value === "string") data.append(name, value);
  data.append("label", $("label").checked);
  try {
    const made = await post("/v1/animations", data);
    history.replaceState(null, "", "#" + made.id);
    await watch(made);
  } catch (error) { busy(false); fail(error.message); }
};
async function watch(state) {
  job = state;
  busy(true);
  try {
    job = await follow(state, told => { job = told; progress(told); });
    if (job.state === "done") { busy(false); remember(job.id); await show(); return; }
    history.replaceState(null, "", location.pathname);
    fail(job.state === "failed" ? sentence(job.error) : "Cancelled.");
  } catch (error) { fail(error.message); }
  busy(false);
}
$("cancel").onclick = () => { if (job) call(job.links.self, { method: "DELETE" }).catch(error => fail(error.message)); };

// the result
const pair = [$("video"), $("driver-video")];
async function show(compare = true) {
  const start = Number(job.options.start || 0), compared = Boolean(compare && chosen.driving && !chosen.driving.type.startsWith("image/"));
  pair[0].src = $("download").href = await playable(job.links.video);
  $("download").download = `xnemo-${job.id.slice(0, 8)}.mp4`;
  $("driver-figure").hidden = !compared;
  if (compared) pair[1].src = urls.driving;
  pair[0].onplay = () => { pair[1].play().catch(() => {}); };
  pair[0].onpause = () => pair[1].pause();
  pair[0].onseeked = pair[0].ontimeupdate = () => {
    if (compared && Math.abs(pair[1].currentTime - start - pair[0].currentTime) > 0.15) pair[1].currentTime = start + pair[0].currentTime;
  };
  $("facts").textContent = `Portrait, animated · ${job.frames} frames at ${Number(job.fps.toFixed(2))} per second`;
  $("result").hidden = false;
  $("result-title").focus({ preventScroll: true });
  $("result").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  pair[0].play().catch(() => {});
}
$("again").onclick = () => { pair.forEach(video => video.pause()); $("result").hidden = true; history.replaceState(null, "", location.pathname); scrollTo(0, 0); $("portrait").focus(); };

// what was made here before
function remember(id) {
  const made = JSON.parse(localStorage.getItem("made") || "[]").filter(other => other !== id);
  localStorage.setItem("made", JSON.stringify([id, ...made].slice(0, 12)));
  gallery();
}
async function gallery() {
  const made = JSON.parse(localStorage.getItem("made") || "[]");
  const states = await Promise.all(made.map(id => call(`/v1/animations/${id}`).then(answer => answer.json()).catch(() => null)));
  const there = states.filter(state => state && state.state === "done");
  const shown = await Promise.all(there.map(async (state, at) => {
    const button = document.createElement("button"), video = document.createElement("video");
    button.type = "button";
    button.setAttribute("aria-label", `Show animation ${at + 1} of ${there.length}`);
    Object.assign(video, { muted: true, preload: "metadata", playsInline: true });
    video.src = (await playable(state.links.video)) + "#t=0.1";
    button.append(video);
    button.onclick = () => { job = state; history.replaceState(null, "", "#" + state.id); show(false); };
    return button;
  }));
  $("gallery").replaceChildren(...shown);
  $("gallery-card").hidden = shown.length === 0;
}

// the service
async function about() {
  try {
    const ready = (await (await call("/v1/models")).json()).models.find(model => model.state === "ready");
    $("key-form").hidden = true;
    $("model").textContent = ready ? `${ready.model}, ${ready.image_size} px` : "starting up";
    motions.canExtend(Boolean(ready && ready.outpainting));
    gallery();
    if (/^#[0-9a-f]{32}$/.test(location.hash)) {
      const state = await (await call("/v1/animations/" + location.hash.slice(1))).json();
      if (state.state === "done") { job = state; show(); } else if (!["failed", "cancelled"].includes(state.state)) watch(state);
    }
  } catch (error) {
    if (error.status === 401) { $("key-form").hidden = false; $("model").textContent = "behind a key"; } else if (!error.status) $("model").textContent = "unknown";
  }
}
$("key-form").onsubmit = event => { event.preventDefault(); useKey($("key").value); about(); };

camera.setUp(file => { choose("driving", file); press("driving", null); });
motions.setUp(motion => {
  chosen.motion = motion; chosen.driving = null;
  press("driving", null);
  fill("driving", `Motion: ${motion.name}`);
  $("driving-drop").scrollIntoView({ block: "center" });
  $("start").focus();
});
samples().catch(() => {});
about();
