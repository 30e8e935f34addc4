'use strict';

const COLOURS = ['red', 'green', 'blue', 'black', 'white'];
const THINGS = ['lamp', 'chair', 'table', 'shelf', 'carpet', 'sofa'];

class Item {
  #price;

  constructor(id) {
    this.id = id;
    this.name = `${COLOURS[id % COLOURS.length]} ${THINGS[id % THINGS.length]} ${id}`;
    this.#price = (id * 7919) % 1000;
  }

  get price() {
    return this.#price;
  }
}

class Catalogue {
  constructor(size) {
    this.items = Array.from({ length: size }, (_, id) => new Item(id));
  }

  score(item, words) {
    let score = 0;
    for (const word of words) {
      if (item.name.includes(word)) score += word.length;
      if (new RegExp(`\\b${word}\\b`, 'i').test(item.name)) score += 10;
    }
    return score;
  }

  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return this.items
      .map((item) => ({ item, score: this.score(item, words) }))
      .filter(({ score }) => score > 0)
      .sort((a, b) => b.score - a.score || a.item.price - b.item.price)
      .slice(0, 50)
      .map(({ item }) => item);
  }
}

module.exports = { Catalogue, Item };
