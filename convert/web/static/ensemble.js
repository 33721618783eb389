// Runs an ensemble file on LiteRT, member by member.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { isConfident, isKnown, predict } from "./combination.js";
import { readFile } from "./tflite.js";

const NEWEST_VERSION = 2;

let runtime;

/** Loads the runtime's WebAssembly, once for the page. */
function loadRuntime() {
  // LiteRT writes all its messages as errors, also that it found no accelerator, which none needs.
  globalThis.Module ??= {
    printErr: (line) => (line.startsWith("ERROR") ? console.error(line) : console.debug(line)),
  };
  return (runtime ??= loadLiteRt(new URL("litert/", import.meta.url).href));
}

export class Ensemble {
  /**
   * Opens a file.
   *
   * @param {Uint8Array} data the file that `larq-ensemble convert --target litert` wrote.
   * @throws {Error} a sentence for the user, if this page can't run the file.
   */
  static async open(data) {
    const { metadata, custom, macs } = readFile(data);
    check(metadata, custom);
    await loadRuntime();
    const model = await loadAndCompile(data, { accelerator: "wasm" });
    return new Ensemble(model, metadata, macs, data.length);
  }

  constructor(model, metadata, macs, bytes) {
    this.metadata = metadata;
    this.macs = macs;
    this.bytes = bytes;
    this.model = model;
    this.hasTrunk = "prefix" in model.signatures;
  }

  get members() {
    return this.metadata.members;
  }

  /** The signature of a member's logits. */
  key(member) {
    if (this.metadata.layout === "subgraphs") {
      return `${this.hasTrunk ? "rest" : "member"}_${member}`;
    }
    return this.hasTrunk ? "rest" : "serving_default";
  }

  /**
   * Starts an image. The shared trunk runs once, each member when it is first asked for.
   *
   * @param {Uint8Array} pixels [height, width, channels].
   */
  async start(pixels) {
    const image = new Tensor(Float32Array.from(pixels), [1, ...this.metadata.input_shape]);
    const features = this.hasTrunk ? await this.model.run("prefix", { image }) : {};
    return new Run(this, { image, ...features });
  }

  close() {
    this.model.delete();
  }
}

/** An image on its way through the members. */
class Run {
  constructor(ensemble, tensors) {
    this.ensemble = ensemble;
    this.tensors = tensors;
    this.logits = [];
  }

  /**
   * The prediction of the first members.
   *
   * @param {number} members the most that may run.
   * @param {boolean} isAdaptive stop when the cascade is confident.
   * @returns {Promise<{probabilities: number[], members: number}>}
   */
  async predict(members, isAdaptive) {
    const { metadata } = this.ensemble;
    for (let count = isAdaptive ? 1 : members; ; count++) {
      while (this.logits.length < count) await this.next();
      const probabilities = predict(this.logits.slice(0, count), metadata);
      if (count === members || isConfident(probabilities, count, metadata.cascade)) {
        return { probabilities, members: count };
      }
    }
  }

  /** Runs the next member; all of them where one graph computes all. */
  async next() {
    const { model, metadata } = this.ensemble;
    const member = this.logits.length;
    const key = this.ensemble.key(member);
    const known = { ...this.tensors, member: new Tensor(Int32Array.of(member), [1]) };
    const names = model.signatures[key].getInputDetails().map(({ name }) => name);
    const outputs = await model.run(key, Object.fromEntries(names.map((name) => [name, known[name]])));
    const ordered =
      metadata.layout === "branches"
        ? Array.from({ length: metadata.members }, (_, i) => outputs[`logits_${i}`])
        : [outputs.logits];
    for (const tensor of ordered) this.logits.push((await tensor.data()).slice());
    [known.member, ...ordered].forEach((tensor) => tensor.delete());
  }

  close() {
    Object.values(this.tensors).forEach((tensor) => tensor.delete());
  }
}

function check(metadata, custom) {
  if (!metadata) {
    throw new Error("This .tflite file is no ensemble that larq-ensemble converted.");
  }
  if (custom.length) {
    throw new Error(
      `This file is for Larq Compute Engine, whose operators (${custom.join(", ")}) don't run in a ` +
        "browser: they would give NaN. Convert it with: " +
        "larq-ensemble convert FILE --target litert --out NEW."
    );
  }
  if (metadata.version > NEWEST_VERSION || !isKnown(metadata)) {
    throw new Error("This file is from a newer larq-ensemble: make the page anew with that one.");
  }
  if (![1, 3].includes(metadata.input_shape[2])) {
    throw new Error(
      `Images have 1 or 3 channels, this network takes ${metadata.input_shape[2]}: use Python.`
    );
  }
}
