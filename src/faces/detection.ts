/**
 * SCRFD detection: from a network's scores, boxes and landmarks to faces.
 *
 * Source: insightface, SCRFD of its model zoo (formulas restated): anchors at every stride, distances in strides, overlap
 * counted with the pixels of both edges.
 */
import type { F32Tensor } from '../tensor/tensor.js';

export interface DetectedFace {
  /** Left, top, right, bottom, in pixels of the picture. */
  readonly box: readonly [number, number, number, number];
  /** 0..1 */
  readonly score: number;
  /** x and y of both eyes, nose, both corners of the mouth, in pixels: the person's right first. */
  readonly landmarks: readonly number[];
}

const SCORE_THRESHOLD = 0.5;
const OVERLAP_THRESHOLD = 0.4;
/** Crowds beyond this are cut; the best scores stay. */
const MAX_CANDIDATES = 5000;

interface DetectionInput {
  /** Scores of every stride, then boxes, then landmarks, as the network gives them. */
  readonly outputs: readonly F32Tensor[];
  /** Sides of the network's input. */
  readonly height: number;
  readonly width: number;
  /** What the picture was scaled by to fit the input. */
  readonly scale: number;
}

/** Faces, best score first. @throws {RangeError} when the outputs are not those of a SCRFD network. */
export function decodeDetections({ outputs, height, width, scale }: DetectionInput): DetectedFace[] {
  const count = outputs.length / 3;
  const strides = count === 3 ? [8, 16, 32] : [8, 16, 32, 64, 128];
  const anchors = count === 3 ? 2 : 1;
  const candidates: DetectedFace[] = [];
  strides.forEach((stride, level) => {
    const scores = outputs[level]?.data;
    const boxes = outputs[level + count]?.data;
    const points = outputs[level + 2 * count]?.data;
    const columns = Math.floor(width / stride);
    const places = Math.floor(height / stride) * columns * anchors;
    if (scores?.length !== places || boxes?.length !== places * 4 || points?.length !== places * 10) {
      throw new RangeError(
        `at stride ${stride} it gives ${scores?.length ?? 0} scores, ${boxes?.length ?? 0} box sides and ${points?.length ?? 0} coordinates for ${places} places`,
      );
    }
    for (let place = 0; place < places; place += 1) {
      const score = scores[place] ?? 0;
      if (!(score >= SCORE_THRESHOLD)) continue;
      const cell = Math.floor(place / anchors);
      const x = (cell % columns) * stride;
      const y = Math.floor(cell / columns) * stride;
      const side = (i: number): number => ((boxes[place * 4 + i] ?? 0) * stride) / scale;
      candidates.push({
        box: [x / scale - side(0), y / scale - side(1), x / scale + side(2), y / scale + side(3)],
        score,
        landmarks: Array.from(
          { length: 10 },
          (_none, i) => ((i % 2 === 0 ? x : y) + (points[place * 10 + i] ?? 0) * stride) / scale,
        ),
      });
    }
  });
  candidates.sort((a, b) => b.score - a.score);
  return suppressOverlaps(candidates.slice(0, MAX_CANDIDATES));
}

/** Keeps the best of faces that overlap. */
function suppressOverlaps(sorted: readonly DetectedFace[]): DetectedFace[] {
  const kept: DetectedFace[] = [];
  for (const face of sorted) {
    if (kept.every((better) => overlap(better, face) <= OVERLAP_THRESHOLD)) kept.push(face);
  }
  return kept;
}

function overlap({ box: a }: DetectedFace, { box: b }: DetectedFace): number {
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]) + 1);
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]) + 1);
  const shared = width * height;
  return shared / (boxArea(a) + boxArea(b) - shared);
}

function boxArea([left, top, right, bottom]: DetectedFace['box']): number {
  return (right - left + 1) * (bottom - top + 1);
}

/** Area of a face's box, in pixels. */
export function faceArea({ box: [left, top, right, bottom] }: DetectedFace): number {
  return (right - left) * (bottom - top);
}
