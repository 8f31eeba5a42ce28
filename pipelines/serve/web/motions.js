// Motions that were kept: used again, extended, blended. The service keeps them; this browser remembers their ids.
import { call, follow, post, sentence } from "./api.js";

const $ = id => document.getElementById(id);
let kept = JSON.parse(localStorage.getItem("motions") || "[]");
let use = () => {}, outpainting = false;

export function setUp(onUse) {
  use = onUse;
  $("blend-go").onclick = blend;
  show();
  kept.forEach(motion => call(`/v1/motions/${motion.id}/state`).catch(error => { if (error.status === 404) forget(motion.id); }));
}

export function canExtend(yes) { outpainting = yes; show(); }

export async function keep(file) {
  const data = new FormData();
  data.append("driving", file);
  await make("/v1/motions", data, file.name.replace(/\.\w+$/, ""));
}

async function make(path, body, name) {
  $("library-says").textContent = "Working…";
  try {
    const job = await follow(await post(path, body), state => {
      $("library-says").textContent = state.state === "queued" ? `Waiting, ${state.ahead} before you` : `Working, ${Math.round(100 * state.progress)} %`;
    });
    if (job.state !== "done") throw new Error(sentence(job.error) || "Cancelled.");
    kept.unshift({ id: job.id, name, frames: job.frames, fps: job.fps });
    kept.length = Math.min(kept.length, 24);
    store();
    $("library-says").textContent = `“${name}” is kept.`;
    $("motions").querySelector("button").focus();
  } catch (error) { $("library-says").textContent = error.message; }
}

function blend() {
  const [a, b] = ["blend-a", "blend-b"].map(id => kept.find(motion => motion.id === $(id).value));
  const keys = [{ motion: a.id, seconds: Number($("blend-a-at").value) }, { motion: b.id, seconds: Number($("blend-b-at").value) }];
  make("/v1/motions/interpolate", { keys, seconds: Number($("blend-seconds").value) }, a === b ? `${a.name}, blended` : `${a.name} to ${b.name}`);
}

function forget(id) { kept = kept.filter(motion => motion.id !== id); store(); }
function store() { localStorage.setItem("motions", JSON.stringify(kept)); show(); }

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button"; made.className = "button small"; made.textContent = text; made.onclick = act;
  made.setAttribute("aria-label", label);
  return made;
}

function show() {
  $("no-motions").hidden = kept.length > 0;
  $("blend").hidden = kept.length === 0;
  $("motions").replaceChildren(...kept.map(motion => {
    const item = document.createElement("li"), name = document.createElement("b"), length = document.createElement("small");
    const seconds = motion.frames / motion.fps;
    name.textContent = motion.name;
    length.textContent = `${seconds.toFixed(1)} s`;
    name.append(length);
    item.append(name, button("Use", `Use ${motion.name}`, () => use(motion)));
    if (outpainting) item.append(button("Extend", `Extend ${motion.name} to twice its length`, () =>
      make(`/v1/motions/${motion.id}/outpaint`, { seconds: Math.min(600, 2 * seconds) }, `${motion.name}, extended`)));
    item.append(button("Forget", `Forget ${motion.name}`, () => forget(motion.id)));
    return item;
  }));
  for (const id of ["blend-a", "blend-b"]) {
    const before = $(id).value;
    $(id).replaceChildren(...kept.map(motion => new Option(motion.name, motion.id)));
    if (kept.some(motion => motion.id === before)) $(id).value = before;
  }
}
