import { Mixer, driveMixer } from './mixer';

declare function setImmediate(callback: () => void): void;

const mixer = new Mixer();
function repeatForever(): void {
  if (driveMixer(mixer) === 0.5) throw new Error('cannot be');
  setImmediate(repeatForever);
}
repeatForever();
console.log('ready');
