// A driving video from the camera. Nothing leaves the browser until “Animate” or “Keep its motion”.
const $ = id => document.getElementById(id);
const LONGEST_S = 15;
let stream = null, recorder = null, ticking = 0;

export function setUp(onFile) {
  $("camera").hidden = !(navigator.mediaDevices && window.MediaRecorder);
  $("camera").onclick = open;
  $("camera-close").onclick = () => $("studio").close();
  $("studio").onclose = () => { if (recorder) { recorder.onstop = null; } stop(); };
  $("record").onclick = () => recorder ? recorder.stop() : record(onFile);
}

async function open() {
  $("studio").showModal();
  $("record").disabled = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, facingMode: "user" } });
    $("camera-video").srcObject = stream;
    await $("camera-video").play();
    $("record").disabled = false;
    $("record").focus();
  } catch { $("camera-says").textContent = "The camera cannot be used: allow it in the browser, or choose a video instead."; }
}

function record(onFile) {
  const kind = ["video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp8", "video/webm"].find(each => MediaRecorder.isTypeSupported(each));
  const pieces = [], began = Date.now();
  recorder = new MediaRecorder(stream, { mimeType: kind, videoBitsPerSecond: 4e6 });
  recorder.ondataavailable = event => pieces.push(event.data);
  recorder.onstop = () => {
    const type = kind.split(";")[0];
    const file = new File(pieces, `camera.${type.split("/")[1]}`, { type });
    $("studio").close();
    onFile(file);
  };
  recorder.start();
  $("record").textContent = "Stop";
  ticking = setInterval(() => {
    const seconds = (Date.now() - began) / 1000;
    $("camera-says").textContent = `Recording, ${seconds.toFixed(0)} of ${LONGEST_S} s`;
    if (seconds >= LONGEST_S && recorder) recorder.stop();
  }, 250);
}

function stop() {
  clearInterval(ticking);
  if (recorder && recorder.state !== "inactive") recorder.stop();
  recorder = null;
  if (stream) stream.getTracks().forEach(track => track.stop());
  stream = null;
  $("record").textContent = "Record";
  $("camera-says").textContent = "Look into the camera, face it from the front at first.";
}
