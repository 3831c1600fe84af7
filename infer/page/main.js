// The page: follows the node's events and hands each report to those who show a part of it.

import { askJson } from "./api.js";
import { Curves } from "./curves.js";
import { find, say } from "./dom.js";
import { showFigures } from "./figures.js";
import { PicturePanel } from "./picture.js";
import { PromptPanel } from "./prompt.js";
import { Run } from "./run.js";
import { ServingView } from "./serving.js";
import { showState } from "./state.js";
import { Stream } from "./stream.js";
import { TensorPanel } from "./tensors.js";

const RUN_PARTS = ["curves", "workers", "staleness", "shards"];

const curves = new Curves();
const run = new Run();
const serving = new ServingView();
let panel = null;
let making = false;
let report = null;

function on(name, data) {
  if (name === "history") curves.history(data);
  if (name === "report") show(data);
}

function show(data) {
  if (report && isAnother(report, data)) location.reload();
  report = data;
  makePanel();
  find("main").hidden = false;
  say(find("model"), data.node.model);
  document.title = `${data.node.model} – gradmq`;
  const hasRun = data.run !== null && data.run.silent_s !== null;
  for (const id of RUN_PARTS) find(id).hidden = !hasRun;
  find("no-run").hidden = data.run !== null;
  showFigures(data);
  serving.show(data.node);
  if (hasRun) {
    say(find("run"), data.run.name);
    run.show(data.run);
    curves.report(data);
  }
  panel?.report(data.node);
  showState(data, stream);
}

/** Whether another model or another run is at this address now. */
function isAnother(before, now) {
  const runs = [before.run?.name, now.run?.name];
  return before.node.model !== now.node.model || (runs.every(Boolean) && runs[0] !== runs[1]);
}

/** Once, as soon as the node says what it serves. */
async function makePanel() {
  if (panel || making) return;
  making = true;
  try {
    panel = await panelFor();
    panel.report(report.node);
  } catch {
    // The node went away in between: the next report tries again.
  }
  making = false;
}

/** The way to ask this model: known from the node alone, nothing here is made for one model. */
async function panelFor() {
  const status = await askJson("/gradmq/v1/status");
  const parent = find("ask-body");
  const pictures = (status.accepts ?? []).filter((type) => type.startsWith("image/"));
  if (status.kind === "text") return new PromptPanel(parent, status.sample_prompt);
  if (pictures.length) return new PicturePanel(parent, status.model, pictures, status.class_names);
  return new TensorPanel(parent, status.model, await askJson(`/v2/models/${encodeURIComponent(status.model)}`));
}

const stream = new Stream(on, () => showState(report, stream));
