// Reads what the page must know about a .tflite file before the runtime opens it.

const IDENTIFIER = "TFL3";
const METADATA = "larq_ensemble";

// Operators with a filter: the input that holds it, by builtin code.
const FILTER_INPUT = { 3: 1, 4: 1, 9: 1 }; // CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED

/** A table of a flatbuffer; fields are given by their position in the schema. */
class Table {
  constructor(view, at) {
    this.view = view;
    this.at = at;
    this.vtable = at - view.getInt32(at, true);
    this.size = view.getUint16(this.vtable, true);
  }

  /** Where a field lies; 0 if the table doesn't have it. */
  position(field) {
    const entry = 4 + 2 * field;
    const offset = entry < this.size ? this.view.getUint16(this.vtable + entry, true) : 0;
    return offset && this.at + offset;
  }

  int8(field) {
    const at = this.position(field);
    return at ? this.view.getInt8(at) : 0;
  }

  int32(field) {
    const at = this.position(field);
    return at ? this.view.getInt32(at, true) : 0;
  }

  /** [start, length] of a vector; both 0 if it is missing. */
  span(field) {
    const at = this.position(field);
    if (!at) return [0, 0];
    const start = at + this.view.getUint32(at, true);
    return [start + 4, this.view.getUint32(start, true)];
  }

  bytes(field) {
    const [start, length] = this.span(field);
    return new Uint8Array(this.view.buffer, this.view.byteOffset + start, length);
  }

  string(field) {
    return new TextDecoder().decode(this.bytes(field));
  }

  numbers(field) {
    const [start, length] = this.span(field);
    return Array.from({ length }, (_, i) => this.view.getInt32(start + 4 * i, true));
  }

  tables(field) {
    const [start, length] = this.span(field);
    return Array.from({ length }, (_, i) => {
      const at = start + 4 * i;
      return new Table(this.view, at + this.view.getUint32(at, true));
    });
  }
}

/**
 * Reads a file of an ensemble.
 *
 * @param {Uint8Array} data the file.
 * @returns {{metadata: object, macs: Object<string, number>}} its metadata, and the
 *   multiply-accumulates of each signature.
 * @throws {Error} a sentence for the user, if this page can't run the file.
 */
export function readFile(data) {
  if (new TextDecoder().decode(data.subarray(4, 8)) !== IDENTIFIER) {
    throw new Error("This is no .tflite file.");
  }
  try {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const model = new Table(view, view.getUint32(0, true));
    const codes = model.tables(1);
    const custom = codes.map((code) => code.string(1)).filter(Boolean);
    const metadata = metadataOf(model);
    return { metadata, custom, macs: metadata && custom.length === 0 ? macsOf(model, codes) : {} };
  } catch (error) {
    if (error instanceof RangeError || error instanceof SyntaxError) {
      throw new Error("This file is damaged: copy or convert it again.");
    }
    throw error;
  }
}

function metadataOf(model) {
  const entry = model.tables(6).find((each) => each.string(0) === METADATA);
  return entry ? JSON.parse(model.tables(4)[entry.int32(1)].string(0)) : null;
}

function macsOf(model, codes) {
  const builtin = codes.map((code) => Math.max(code.int8(0), code.int32(3)));
  const graphs = model.tables(2).map((graph) => macsOfGraph(graph, builtin));
  return Object.fromEntries(
    model.tables(7).map((signature) => [signature.string(2), graphs[signature.int32(4)]])
  );
}

/** Multiply-accumulates of a graph's convolutions and linear layers. */
function macsOfGraph(graph, builtin) {
  const product = (numbers) => numbers.reduce((all, each) => all * each, 1);
  const tensors = graph.tables(0);
  let sum = 0;
  for (const operator of graph.tables(3)) {
    const code = builtin[operator.int32(0)];
    if (!(code in FILTER_INPUT)) continue;
    const filter = product(tensors[operator.numbers(1)[FILTER_INPUT[code]]].numbers(0));
    const output = tensors[operator.numbers(2)[0]].numbers(0);
    sum += filter * product(output.slice(0, -1));
  }
  return sum;
}
