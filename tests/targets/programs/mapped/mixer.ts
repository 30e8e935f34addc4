// Types, comments and line breaks that no output of a compiler has.
interface Options {
  readonly rounds: number;
}

export class Mixer {
  private state: number = 1;

  mixRounds(options: Options): number {
    for (let round = 0; round < options.rounds; round++) {
      this.state =
        (Math.imul(this.state, 31) + round) | 0;
    }
    return this.state;
  }
}

export const driveMixer = (mixer: Mixer): number => {
  const end: number = Date.now() + 20;
  let sum = 0;
  while (Date.now() < end) {
    sum ^= mixer.mixRounds({ rounds: 5000 });
  }
  return sum;
};
