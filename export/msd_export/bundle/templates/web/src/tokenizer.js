import { check } from "./errors.js";

const FILE = "text.json";
const REMOVED = 1, BARRIER = 2, BLANK = 4, SPACED = 8, PUNCTUATION = 16, ABSENT = 32;
const FLAGS = {
  removed: REMOVED, barriers: BARRIER, blank: BLANK, spaced: SPACED,
  punctuation: PUNCTUATION, absent: ABSENT,
};
const NUMBERS = [
  "max_length", "pad_id", "absent_id", "start_id", "end_id", "unknown_id", "longest_word",
];
const SCALARS = 0x110000, REPLACEMENT = 0xfffd, SPACE = 0x20;
const HANGUL = 0xac00, SYLLABLES = 11172;

/** A student's tokenizer by the tables of text.json. */
export class Tokenizer {
  #rules;
  #flags = new Uint8Array(SCALARS);
  #replaced = new Map();
  #places = new Map();
  #ids = new Map();

  /**
   * @param {object} rules content of text.json
   * @throws {BundleError} a key is missing or has another type
   */
  constructor(rules) {
    check(rules?.schema_version === 1, FILE, "has an unknown schema_version");
    for (const key of NUMBERS) {
      check(Number.isInteger(rules[key]) && rules[key] >= 0, FILE, `${key} is not a number`);
    }
    check(rules.max_length >= 2, FILE, "max_length is less than 2");
    check(typeof rules.inside_word === "string", FILE, "inside_word is not a string");
    check(isListOf(rules.vocabulary, (piece) => typeof piece === "string"), FILE,
      "vocabulary is not a list of strings");
    for (const [key, flag] of Object.entries(FLAGS)) {
      this.#mark(rules[key], flag, key);
    }
    for (const key of ["replaced", "order"]) {
      check(isListOf(rules[key], (entry) => isListOf(entry, isScalar) && entry.length > 1), FILE,
        `${key} is not a list of characters`);
    }
    for (const [source, ...target] of rules.replaced) {
      this.#replaced.set(source, target);
    }
    for (const [mark, place] of rules.order) {
      this.#places.set(mark, place);
    }
    rules.vocabulary.forEach((piece, id) => this.#ids.set(piece, id));
    for (const key of ["pad_id", "absent_id", "start_id", "end_id", "unknown_id"]) {
      check(rules[key] < rules.vocabulary.length, FILE, `${key} is not in the vocabulary`);
    }
    this.#rules = rules;
  }

  /** How many identifiers a text has. */
  get maxLength() {
    return this.#rules.max_length;
  }

  /** Whether a text counts as absent: it is empty or white space alone. */
  isAbsent(text) {
    return !someScalar(text, (scalar) => !(this.#flags[scalar] & ABSENT));
  }

  /**
   * Turn a text into identifiers, cut on the right and padded.
   *
   * @param {string} text
   * @returns {{inputIds: Int32Array, attentionMask: Int32Array, isCut: boolean}}
   */
  encode(text) {
    const { max_length: length, pad_id, absent_id, start_id, end_id } = this.#rules;
    const inputIds = new Int32Array(length).fill(pad_id), attentionMask = new Int32Array(length);
    if (this.isAbsent(text)) {
      inputIds[0] = absent_id;
      attentionMask[0] = 1;
      return { inputIds, attentionMask, isCut: false };
    }
    const pieces = [];
    const most = length - 2;
    this.#split(text, (word) => {
      pieces.push(...this.#pieces(word));
      return pieces.length <= most; // one more shows that the text is cut
    });
    const kept = pieces.slice(0, most);
    inputIds.set([start_id, ...kept, end_id]);
    attentionMask.fill(1, 0, kept.length + 2);
    return { inputIds, attentionMask, isCut: pieces.length > most };
  }

  /** Return the words of a text, before they are split into pieces. */
  words(text) {
    const words = [];
    this.#split(text, (word) => words.push(String.fromCodePoint(...word)), Infinity);
    return words;
  }

  #mark(ranges, flag, key) {
    check(isListOf(ranges, isScalar) && ranges.length % 2 === 0, FILE, `${key} is not of ranges`);
    for (let at = 0; at < ranges.length; at += 2) {
      for (let scalar = ranges[at]; scalar <= ranges[at + 1]; scalar++) {
        this.#flags[scalar] |= flag;
      }
    }
  }

  /**
   * Hand over one word after the other, as scalars, until `take` returns false.
   *
   * Of a longer word than `most` one more scalar than that is kept: it is unknown anyway.
   */
  #split(text, take, most = this.#rules.longest_word) {
    let word = [], run = [], goesOn = true;
    const end = () => {
      if (word.length > 0 && goesOn) {
        goesOn = take(word) !== false;
      }
      word = [];
    };
    const add = (scalar) => {
      if (this.#flags[scalar] & PUNCTUATION) {
        end();
        word.push(scalar);
        end();
      } else if (scalar === SPACE) {
        end();
      } else if (word.length <= most) {
        word.push(scalar);
      }
    };
    const addRun = () => {
      run.sort((a, b) => this.#places.get(a) - this.#places.get(b)).forEach(add);
      run = [];
    };
    const addNormal = (scalar) => {
      if (this.#places.has(scalar)) {
        run.push(scalar);
      } else {
        addRun();
        add(scalar);
      }
    };
    someScalar(text, (scalar) => {
      const flags = this.#flags[scalar];
      if (flags & REMOVED) {
        if (flags & BARRIER) {
          addRun();
        }
      } else {
        this.#spell(scalar, flags, addNormal);
      }
      return !goesOn;
    });
    addRun();
    end();
  }

  /** Hand over what a character becomes. */
  #spell(scalar, flags, add) {
    if (flags & BLANK) {
      add(SPACE);
      return;
    }
    const syllable = scalar - HANGUL;
    if (this.#rules.splits_hangul && syllable >= 0 && syllable < SYLLABLES) {
      add(0x1100 + Math.floor(syllable / 588));
      add(0x1161 + Math.floor((syllable % 588) / 28));
      if (syllable % 28) {
        add(0x11a7 + (syllable % 28));
      }
      return;
    }
    const isSpaced = flags & SPACED;
    if (isSpaced) {
      add(SPACE);
    }
    (this.#replaced.get(scalar) ?? [scalar]).forEach(add);
    if (isSpaced) {
      add(SPACE);
    }
  }

  /** Return the identifiers of a word's pieces: the longest first, or one for all of it. */
  #pieces(word) {
    const { unknown_id, inside_word, longest_word } = this.#rules;
    if (word.length > longest_word) {
      return [unknown_id];
    }
    const found = [];
    for (let start = 0; start < word.length;) {
      const prefix = start ? inside_word : "";
      let end = word.length, id;
      for (; end > start; end--) {
        id = this.#ids.get(prefix + String.fromCodePoint(...word.slice(start, end)));
        if (id !== undefined) {
          break;
        }
      }
      if (id === undefined) {
        return [unknown_id];
      }
      found.push(id);
      start = end;
    }
    return found;
  }
}

/** Whether any scalar of a text is one; a lone surrogate counts as U+FFFD. */
function someScalar(text, isOne) {
  for (let at = 0; at < text.length; at++) {
    let scalar = text.codePointAt(at);
    if (scalar > 0xffff) {
      at++;
    } else if (scalar >= 0xd800 && scalar < 0xe000) {
      scalar = REPLACEMENT;
    }
    if (isOne(scalar)) {
      return true;
    }
  }
  return false;
}

function isListOf(value, isOne) {
  return Array.isArray(value) && value.every(isOne);
}

function isScalar(value) {
  return Number.isInteger(value) && value >= 0 && value < SCALARS;
}
