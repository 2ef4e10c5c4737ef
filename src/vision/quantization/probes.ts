/**
 * Pictures that a quantised model is measured with: made, not stored, and as unlike each other as few pictures can be.
 *
 * Smooth light, hard edges, texture, and noise: what a photograph, a drawing and a bad photograph have.
 */
import { u8Tensor, type U8Tensor } from '../../tensor/tensor.js';

const CHANNELS = 3;
type Colour = (x: number, y: number, channel: number) => number;

/** Smooth light from a corner, warm to cold. */
const light: Colour = (x, y, channel) => 0.2 + 0.7 * Math.exp(-((x - 0.3) ** 2 + (y - 0.35) ** 2) * (2 + channel));

/** Hard edges: discs and stripes in plain colours. */
const drawing: Colour = (x, y, channel) => {
  if ((x - 0.55) ** 2 + (y - 0.45) ** 2 < 0.07) return channel === 0 ? 0.9 : 0.15;
  return Math.floor(x * 7 + y * 3) % 2 === channel % 2 ? 0.95 : 0.05;
};

/** Texture of many sizes, as bark or grass has it. */
const texture: Colour = (x, y, channel) => {
  let value = 0;
  for (let octave = 1; octave <= 5; octave += 1) {
    const frequency = 2 ** octave;
    value += Math.sin(frequency * (7.1 * x + 3.3 * y) + channel + octave * octave) / octave;
    value += Math.cos(frequency * (2.7 * x - 6.9 * y) + octave) / octave;
  }
  return 0.5 + 0.12 * value;
};

/** Grain; the same on every machine. */
function grain(): Colour {
  let state = 0x9e3779b9;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4_294_967_296;
  };
}

/** u8 `[1, S, S, 3]` each. */
export function probePictures(side: number): U8Tensor[] {
  return [light, drawing, texture, grain()].map((colour) => {
    const data = new Uint8Array(side * side * CHANNELS);
    for (let i = 0; i < data.length; i += 1) {
      const pixel = Math.floor(i / CHANNELS);
      const value = colour((pixel % side) / side, Math.floor(pixel / side) / side, i % CHANNELS);
      data[i] = Math.round(255 * Math.min(1, Math.max(0, value)));
    }
    return u8Tensor([1, side, side, CHANNELS], data);
  });
}
