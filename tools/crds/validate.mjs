// Holds custom resources (a JSON array on stdin) to the schemas of their definitions; prints what is
// wrong as a JSON array. Strict: a field that no schema looked at is one that the cluster would drop.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const modules = `${process.argv[2]}/node_modules/@kubernetes-models`;
const packages = { "keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator" };

const problems = [];
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${object.kind} ${object.metadata.name}`;
  const [group, version] = object.apiVersion.split("/");
  let Model;
  try {
    const path = `${modules}/${packages[group]}/${group}/${version}/${object.kind}.js`;
    Model = (await import(pathToFileURL(path)))[object.kind];
  } catch (error) {
    problems.push(`${name}: no schema of ${object.apiVersion}: ${error.message}`);
    continue;
  }
  const seen = new Set();
  const model = new Model({});
  for (const key of Object.keys(object)) model[key] = watched(object[key], `/${key}`, seen);
  try {
    model.validate();
  } catch (error) {
    problems.push(`${name}: ${error.message}`);
  }
  for (const path of paths(object, "")) if (path.split("/").length > 2 && !seen.has(path)) problems.push(`${name}: unknown field ${path}`);
}
console.log(JSON.stringify(problems));

// `value`, writing down what is read of it.
function watched(value, path, seen) {
  if (value === null || typeof value !== "object") return value;
  return new Proxy(value, {
    get(target, key) {
      const inner = target[key];
      if (typeof key === "symbol" || !Object.hasOwn(target, key)) return inner;
      seen.add(`${path}/${key}`);
      return watched(inner, `${path}/${key}`, seen);
    },
  });
}

function* paths(value, path) {
  if (value === null || typeof value !== "object") return;
  for (const key of Object.keys(value)) {
    yield `${path}/${key}`;
    yield* paths(value[key], `${path}/${key}`);
  }
}
