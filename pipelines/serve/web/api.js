// The service's HTTP interface, with the key where one is needed.
export const ENDED = ["done", "failed", "cancelled"];
let key = sessionStorage.getItem("key") || "";

export function useKey(text) { key = text.trim(); sessionStorage.setItem("key", key); }

export async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try { answer = await fetch(path, { ...options, headers }); } catch { throw new Error("The service cannot be reached."); }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw Object.assign(new Error(sentence(body && body.detail) || `The service answered ${answer.status}.`), { status: answer.status });
}

export async function post(path, body) {
  const json = !(body instanceof FormData);
  const headers = { "Idempotency-Key": random(), ...(json && { "Content-Type": "application/json" }) };
  return (await call(path, { method: "POST", headers, body: json ? JSON.stringify(body) : body })).json();
}

// Tells every state of a job until it ends; the last one is returned. A broken connection is taken up again.
export async function follow(job, tell, stopped = () => false) {
  for (let failures = 0; failures < 60;) {
    try {
      const reader = (await call(job.links.events)).body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (stopped()) { reader.cancel(); return null; }
        if (done) break;
        failures = 0;
        const parts = (text + value).split("\n\n");
        text = parts.pop();
        for (const part of parts) {
          if (part.startsWith("event: gone")) throw Object.assign(new Error("It is no longer kept."), { status: 404 });
          if (!part.startsWith("event: state")) continue;
          const state = JSON.parse(part.slice(part.indexOf("data: ") + 6));
          tell(state);
          if (ENDED.includes(state.state)) return state;
        }
      }
    } catch (error) {
      if (error.status && error.status < 500) throw error;
    }
    failures += 1;
    await new Promise(resume => setTimeout(resume, 1000));
  }
  throw new Error("The service does not answer any more. The work goes on; come back to this address later.");
}

// An address that a <video> can play: elements send no key, so with a key the file is fetched first.
export async function playable(link) {
  return key ? URL.createObjectURL(await (await call(link)).blob()) : link;
}

export function sentence(text) { return text ? text[0].toUpperCase() + text.slice(1) : ""; }

function random() { return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join(""); }
