// The page: what the user gives goes through the ensemble, what it says is shown.

import { Ensemble } from "./ensemble.js";
import { curves, plot, table } from "./costs.js";
import { crop, decode, fit, pixelsOf } from "./image.js";

const SHOWN_CLASSES = 5;
const DAMAGED_IMAGE =
  "This is no image that the browser can read, and no .tflite file: give a PNG, JPEG or WebP file.";
/** What to do if the camera fails, by the name of the error. */
const CAMERA_ADVICE = {
  NotAllowedError: "allow it in the browser.",
  NotFoundError: "connect one, or choose an image.",
  NotReadableError: "close other programs that use it.",
};

const $ = (id) => document.getElementById(id);

const state = { ensemble: null, run: null, known: [], stream: null };

let last = Promise.resolve();

/** Runs tasks one after another: the runtime computes one image at a time. */
function inTurn(task) {
  show("");
  last = last.then(task).catch((error) => show(error.message));
  return last;
}

function show(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address} can't be loaded (${answer.status}): make the page anew.`);
  return answer;
}

// Files

async function openFile(data, name) {
  const ensemble = await Ensemble.open(data);
  closeRun();
  state.ensemble?.close();
  state.ensemble = ensemble;
  const { metadata, members, bytes } = ensemble;
  const [height, width] = metadata.input_shape;
  $("title").textContent = document.title = metadata.dataset
    ? `${members} binarized networks for ${metadata.dataset}`
    : `${members} binarized networks`;
  $("facts").textContent =
    `${name} · ${bytes.toLocaleString("en")} bytes · ${metadata.classes} classes · ` +
    `${width}\u00a0×\u00a0${height} pixels · scheme ${metadata.scheme}`;
  Object.assign($("members"), { max: members, value: members, disabled: members === 1 });
  $("adaptive").disabled = !metadata.cascade;
  $("adaptive").checked = false;
  $("adaptive-note").hidden = Boolean(metadata.cascade);
  $("adaptive-note").textContent =
    "This file has no thresholds yet: larq-ensemble calibrate finds them on held-out images.";
  $("choose-image").disabled = false;
  $("camera").disabled = !navigator.mediaDevices;
  $("camera-note").hidden = Boolean(navigator.mediaDevices);
  $("answer").textContent = "No image yet.";
  $("classes").replaceChildren();
  $("drop").classList.remove("filled");
  state.known = curves({
    ...ensemble,
    hasTrunk: ensemble.hasTrunk,
    key: ensemble.key(0),
  });
  $("costs").hidden = members === 1 || !state.known.length;
  if (!$("costs").hidden) $("costs-table").replaceChildren(...table(state.known));
  showMembers();
  $("main").ariaBusy = "false";
}

// Images

function closeRun() {
  state.run?.close();
  state.run = null;
}

async function openImage(blob) {
  let bitmap;
  try {
    bitmap = await decode(blob);
  } catch {
    throw new Error(DAMAGED_IMAGE);
  }
  await classify(bitmap);
  bitmap.close();
}

/** Starts a picture: an ImageBitmap or a video's frame. */
async function classify(picture) {
  const pixels = fit(pixelsOf(picture), state.ensemble.metadata.input_shape);
  draw(picture);
  closeRun();
  state.run = await state.ensemble.start(pixels);
  await predict();
}

function draw(picture) {
  const [height, width] = state.ensemble.metadata.input_shape;
  const area = crop(
    picture.videoWidth ?? picture.width, picture.videoHeight ?? picture.height, width / height
  );
  const canvas = $("shown");
  const scale = Math.max(1, 320 / width);
  Object.assign(canvas, { width: width * scale, height: height * scale });
  canvas.getContext("2d").drawImage(picture, ...area, 0, 0, canvas.width, canvas.height);
  canvas.ariaLabel = "The image, as it is cropped for the network";
  $("drop").classList.add("filled");
}

// Predictions

async function predict() {
  if (!state.run) return;
  const isAdaptive = $("adaptive").checked;
  const ran = state.run.logits.length;
  const start = performance.now();
  const { probabilities, members } = await state.run.predict($("members").valueAsNumber, isAdaptive);
  const time = performance.now() - start;
  const names = state.ensemble.metadata.class_names ?? probabilities.map((_, k) => `class ${k}`);
  const order = probabilities.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a]);
  const added = state.run.logits.length - ran;
  const note = document.createElement("small");
  note.textContent =
    `${members} of ${state.ensemble.members} members` +
    (isAdaptive ? ` were enough` : "") +
    (added ? ` · ${added} new in ${time.toFixed(0)} ms` : "");
  $("answer").replaceChildren(names[order[0]], note);
  $("answer").dataset.class = order[0];
  $("answer").dataset.members = members;
  $("classes").replaceChildren(
    ...order.slice(0, SHOWN_CLASSES).map((k) => {
      const item = document.createElement("li");
      item.style.setProperty("--share", probabilities[k]);
      for (const words of [names[k], `${(100 * probabilities[k]).toFixed(1)} %`]) {
        item.append(Object.assign(document.createElement("span"), { textContent: words }));
      }
      return item;
    })
  );
}

function showMembers() {
  const members = $("members").valueAsNumber;
  $("members-text").textContent = `${members} of ${state.ensemble.members}`;
  $("plots").replaceChildren(...state.known.map((curve) => plot(curve, members)));
}

// Camera

async function startCamera() {
  try {
    state.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const advice = CAMERA_ADVICE[error.name] ?? "choose an image.";
    throw new Error(`The camera can't be used (${error.message || error.name}): ${advice}`);
  }
  const video = $("video");
  video.srcObject = state.stream;
  await video.play();
  $("camera").ariaPressed = "true";
  $("camera").textContent = "Stop camera";
  requestAnimationFrame(nextFrame);
}

function stopCamera() {
  state.stream?.getTracks().forEach((track) => track.stop());
  state.stream = null;
  $("camera").ariaPressed = "false";
  $("camera").textContent = "Camera";
}

async function nextFrame() {
  if (!state.stream) return;
  await inTurn(() => (state.stream ? classify($("video")) : undefined));
  requestAnimationFrame(nextFrame);
}

// What the user does

function open(file) {
  stopCamera();
  markSample(null);
  return inTurn(async () => {
    if (file.name.endsWith(".tflite")) {
      await openFile(new Uint8Array(await file.arrayBuffer()), file.name);
    } else if (state.ensemble) {
      await openImage(file);
    }
  });
}

function markSample(chosen) {
  for (const button of $("samples").querySelectorAll("button")) {
    button.ariaCurrent = button === chosen ? "true" : null;
  }
}

function sampleButton({ address, name }) {
  const button = Object.assign(document.createElement("button"), { type: "button", title: name });
  button.append(Object.assign(new Image(), { src: address, alt: name }));
  button.addEventListener("click", () => {
    stopCamera();
    markSample(button);
    inTurn(async () => openImage(await (await fetched(address)).blob()));
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function listen() {
  for (const [button, input] of [["choose-image", "image-input"], ["choose-file", "file-input"]]) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      const [file] = $(input).files;
      $(input).value = "";
      if (file) open(file);
    });
  }
  $("camera").addEventListener("click", () => {
    if (state.stream) stopCamera();
    else inTurn(startCamera).then(() => markSample(null));
  });
  $("members").addEventListener("input", () => {
    showMembers();
    inTurn(predict);
  });
  $("adaptive").addEventListener("change", () => inTurn(predict));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) open(file);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) open(file);
  });
}

listen();
inTurn(async () => {
  const { file, images } = await (await fetched("page.json")).json();
  await openFile(new Uint8Array(await (await fetched(file)).arrayBuffer()), file);
  $("samples").replaceChildren(...images.map(sampleButton));
  $("samples").hidden = !images.length;
});
