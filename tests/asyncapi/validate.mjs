// Usage: node validate.mjs FILE. Prints every diagnostic; exits with 1 if any of them is an error.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { DiagnosticSeverity, Parser } from "@asyncapi/parser";

const file = process.argv[2];
if (!file) {
  console.error("usage: node validate.mjs FILE");
  process.exit(2);
}

const { document, diagnostics } = await new Parser().parse(await readFile(file, "utf8"), {
  source: pathToFileURL(file).pathname,
});
for (const { severity, code, message, path, range } of diagnostics) {
  const place = `${file}:${range.start.line + 1}:${range.start.character + 1}`;
  const level = DiagnosticSeverity[severity].toLowerCase();
  console.log(`${place}: ${level}: ${message} (${code}, at ${path.join(".") || "the top"})`);
}

const errors = diagnostics.filter(({ severity }) => severity === DiagnosticSeverity.Error);
if (errors.length > 0 || !document) {
  console.error(`${file}: not a valid AsyncAPI document, ${errors.length} errors`);
  process.exit(1);
}
const counts = ["channels", "operations", "messages"].map(
  (kind) => `${document[kind]().length} ${kind}`,
);
console.log(`${file}: valid AsyncAPI ${document.version()}: ${counts.join(", ")}`);
