// The OpenAPI file as a page to read: every call with what goes in, what comes out, and a curl line to try it.
const file = await (await fetch("/openapi.json")).json();

function node(tag, text = "", ...inside) {
  const made = document.createElement(tag);
  made.textContent = text.replaceAll("`", "");
  made.append(...inside);
  return made;
}

function resolved(schema) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.slice(2).split("/").reduce((at, name) => at[name], file);
}

function kind(schema) {
  const whole = resolved(schema);
  if (whole.anyOf) return whole.anyOf.map(kind).filter(each => each !== "null").join(" or ");
  if (whole.enum) return whole.enum.join(" | ");
  if (whole.type === "array") return `list of ${kind(whole.items)}`;
  return whole.format === "binary" ? "file" : whole.title && whole.type === "object" ? whole.title : whole.type || "";
}

function bounds(schema) {
  const whole = [schema, ...(schema.anyOf || [])];
  const find = name => whole.map(each => each[name]).find(each => each !== undefined);
  const low = find("minimum") ?? find("exclusiveMinimum"), high = find("maximum") ?? find("exclusiveMaximum"), preset = schema.default;
  return [low !== undefined && `from ${low}`, high !== undefined && `to ${high}`, preset !== undefined && preset !== null && `default ${preset}`]
    .filter(Boolean).join(", ");
}

function table(rows) {
  const body = node("tbody");
  for (const [name, where, required, schema, description] of rows) {
    const cell = node("td", description || "", ...(bounds(schema) ? [node("small", ` ${bounds(schema)}`)] : []));
    body.append(node("tr", "", node("th", name + (required ? " *" : "")), node("td", `${kind(schema)}, ${where}`), cell));
  }
  return node("table", "", body);
}

function content(operation) { return Object.entries((operation.requestBody || {}).content || {})[0] || []; }

function curl(path, method, operation) {
  const [type, body] = content(operation), schema = resolved(body && body.schema), words = ["curl"];
  if (method !== "get") words.push("-X", method.toUpperCase());
  if (type === "multipart/form-data") {
    for (const [name, one] of Object.entries(schema.properties)) if (one.format === "binary") words.push("-F", `${name}=@${name === "portrait" ? "p.png" : "d.mp4"}`);
  } else if (type) words.push("-H", "'Content-Type: application/json'", "-d", `'${JSON.stringify((schema.examples || [{}])[0])}'`);
  if (path.endsWith("/events")) words.push("-N");
  return [...words, location.origin + path.replace("{id}", "$ID")].join(" ").replace("curl -X POST -F", "curl -F");
}

for (const [path, item] of Object.entries(file.paths)) {
  for (const [method, operation] of Object.entries(item)) {
    const card = node("section"), title = node("h2", "", node("code", `${method.toUpperCase()} ${path}`));
    card.className = "card call";
    card.append(title, node("p", operation.description || operation.summary));
    const rows = (operation.parameters || []).map(one => [one.name, one.in, one.required, one.schema, one.description || one.schema.description]);
    const [type, body] = content(operation), schema = resolved(body && body.schema);
    for (const [name, one] of Object.entries(schema.properties || {}))
      rows.push([name, type === "application/json" ? "JSON" : "form", (schema.required || []).includes(name), one, one.description]);
    if (rows.length) card.append(table(rows));
    card.append(node("pre", curl(path, method, operation)));
    const answers = Object.entries(operation.responses).map(([code, one]) => `${code} ${one.description}`).join(" · ");
    card.append(Object.assign(node("p", answers), { className: "note" }));
    document.getElementById("calls").append(card);
  }
}
