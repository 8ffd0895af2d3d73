import Foundation

/// The model's inputs of one text.
public struct Tokens: Equatable, Sendable {
    /// Identifiers of pieces, padded to `max_length`.
    public let inputIDs: [Int32]
    /// 1 for each identifier, 0 for padding.
    public let attentionMask: [Int32]
    /// Whether the text has more pieces than fit; those at its end are left out then.
    public let isCut: Bool
}

/// Turns texts into identifiers by the tables of text.json ("The text" in docs/preprocessing.md).
///
/// Texts and pieces are compared by Unicode scalars: `String` would take "é" in one scalar and in
/// two for the same.
public struct Tokenizer: Sendable {
    private let rules: CharacterRules
    private let vocabulary: Vocabulary
    private let maxLength: Int
    private let longestWord: Int
    private let padID, absentID, startID, endID, unknownID: Int32

    /// Reads the content of text.json.
    ///
    /// - Throws: `BundleError` that names the key whose value is missing or invalid.
    public init(json content: Data) throws {
        let json = try JSON(content, file: "text.json")
        let pieces = try json["vocabulary"].list()
        guard !pieces.isEmpty else { throw try json["vocabulary"].error("is empty") }
        func id(_ key: String) throws -> Int32 {
            try Int32(json[key].int(from: 0, to: pieces.count - 1))
        }
        rules = try CharacterRules(json)
        vocabulary = try Vocabulary(pieces, insideWord: json["inside_word"].text())
        maxLength = try json["max_length"].int(from: 2, to: 65_536)
        longestWord = try json["longest_word"].int(from: 1, to: 65_536)
        (padID, absentID) = try (id("pad_id"), id("absent_id"))
        (startID, endID, unknownID) = try (id("start_id"), id("end_id"), id("unknown_id"))
    }

    /// Whether a text counts as none: it is empty or consists of white space.
    public func isAbsent(_ text: String) -> Bool {
        text.unicodeScalars.allSatisfy { rules.traits[Int($0.value)].contains(.absent) }
    }

    /// Returns the identifiers of a text; an absent one has an identifier of its own.
    ///
    /// Reads a long text only until `max_length` is filled.
    public func encode(_ text: String) -> Tokens {
        guard !isAbsent(text) else { return tokens([absentID], isCut: false) }
        var found = [startID]
        for word in Words(of: text, by: rules) {
            found += pieces(of: word)
            if found.count >= maxLength { break }
        }
        let kept = found.prefix(maxLength - 1)
        return tokens(kept + [endID], isCut: kept.count < found.count)
    }

    /// Returns the normalised words that a text is split into.
    public func words(of text: String) -> [String] {
        Words(of: text, by: rules).map { word in
            var result = String.UnicodeScalarView()
            result.append(contentsOf: word.lazy.compactMap(Unicode.Scalar.init))
            return String(result)
        }
    }

    /// Pads identifiers to `max_length`.
    private func tokens(_ found: [Int32], isCut: Bool) -> Tokens {
        let padding = maxLength - found.count
        return Tokens(
            inputIDs: found + Array(repeating: padID, count: padding),
            attentionMask: Array(repeating: 1, count: found.count)
                + Array(repeating: 0, count: padding),
            isCut: isCut)
    }

    private func pieces(of word: [UInt32]) -> [Int32] {
        guard word.count <= longestWord else { return [unknownID] }
        var found: [Int32] = []
        var start = 0
        while start < word.count {
            guard let piece = vocabulary.longestPiece(of: word, from: start) else {
                return [unknownID]
            }
            found.append(piece.id)
            start = piece.end
        }
        return found
    }
}

/// What the tokenizer does with each Unicode scalar (step 1 of docs/preprocessing.md).
private struct CharacterRules: Sendable {
    struct Traits: OptionSet, Sendable {
        let rawValue: UInt8
        static let absent = Traits(rawValue: 1)
        static let removed = Traits(rawValue: 2)
        static let barrier = Traits(rawValue: 4)
        static let blank = Traits(rawValue: 8)
        static let spaced = Traits(rawValue: 16)
        static let punctuation = Traits(rawValue: 32)
        static let replaced = Traits(rawValue: 64)
        static let ordered = Traits(rawValue: 128)
    }

    /// Of every scalar from 0 to 10FFFF: 1.1 MB, which makes each look-up a single read.
    private(set) var traits = [Traits](repeating: [], count: 0x110000)
    /// By scalar, what it becomes.
    private(set) var replaced: [UInt32: [UInt32]] = [:]
    /// By mark, its place in the order of neighbouring marks.
    private(set) var places: [UInt32: Int] = [:]
    let splitsHangul: Bool

    init(_ json: JSON) throws {
        splitsHangul = try json["splits_hangul"].bool()
        try mark(json["absent"], .absent)
        try mark(json["removed"], .removed)
        try mark(json["barriers"], .barrier)
        try mark(json["blank"], .blank)
        try mark(json["spaced"], .spaced)
        try mark(json["punctuation"], .punctuation)
        for entry in try json["replaced"].list() {
            let scalars = try entry.list().map(Self.scalar)
            guard scalars.count >= 2,
                replaced.updateValue(Array(scalars[1...]), forKey: scalars[0]) == nil
            else { throw entry.error("is not a new scalar and others") }
            traits[Int(scalars[0])].insert(.replaced)
        }
        for entry in try json["order"].list() {
            let numbers = try entry.list()
            guard numbers.count == 2 else { throw entry.error("is not a scalar and its place") }
            let mark = try Self.scalar(numbers[0])
            places[mark] = try numbers[1].int(from: 0, to: 65_536)
            traits[Int(mark)].insert(.ordered)
        }
    }

    private static func scalar(_ json: JSON) throws -> UInt32 {
        let number = try UInt32(json.int(from: 0, to: 0x10FFFF))
        guard Unicode.Scalar(number) != nil else { throw json.error("is a surrogate") }
        return number
    }

    /// Adds a trait to all scalars of ranges, which are listed as first, last, first, last, ...
    private mutating func mark(_ ranges: JSON, _ trait: Traits) throws {
        let ends = try ranges.list()
        guard ends.count.isMultiple(of: 2) else { throw ranges.error("has a range without end") }
        var next = 0
        for index in stride(from: 0, to: ends.count, by: 2) {
            let first = try ends[index].int(from: next, to: 0x10FFFF)
            let last = try ends[index + 1].int(from: first, to: 0x10FFFF)
            for scalar in first...last { traits[scalar].insert(trait) }
            next = last + 1
        }
    }
}

/// The words of a text, one after the other (steps 1 and 2 of docs/preprocessing.md).
private struct Words: Sequence, IteratorProtocol {
    private let rules: CharacterRules
    private var scalars: String.UnicodeScalarView.Iterator
    /// The latest run of scalars that have a place, not yet in order.
    private var marks: [UInt32] = []
    private var normalised: [UInt32] = []
    private var position = 0

    init(of text: String, by rules: CharacterRules) {
        self.rules = rules
        scalars = text.unicodeScalars.makeIterator()
    }

    mutating func next() -> [UInt32]? {
        var word: [UInt32] = []
        while let scalar = nextNormalised() {
            if rules.traits[Int(scalar)].contains(.punctuation) {
                if word.isEmpty { return [scalar] }
                position -= 1  // The scalar is the next word.
                return word
            }
            if scalar != Self.blank {
                word.append(scalar)
            } else if !word.isEmpty {
                return word
            }
        }
        return word.isEmpty ? nil : word
    }

    private mutating func nextNormalised() -> UInt32? {
        while position == normalised.count {
            normalised.removeAll(keepingCapacity: true)
            position = 0
            if let scalar = scalars.next() {
                normalise(scalar.value)
            } else if marks.isEmpty {
                return nil
            } else {
                endRun()
            }
        }
        position += 1
        return normalised[position - 1]
    }

    private mutating func normalise(_ scalar: UInt32) {
        let traits = rules.traits[Int(scalar)]
        if traits.contains(.removed) {
            if traits.contains(.barrier) { endRun() }
            return
        }
        if traits.contains(.blank) { return put(Self.blank) }
        if traits.contains(.spaced) { put(Self.blank) }
        if traits.contains(.replaced) {
            for part in rules.replaced[scalar, default: []] { put(part) }
        } else if rules.splitsHangul, Self.hangul.contains(scalar) {
            putLetters(ofSyllable: scalar - Self.hangul.lowerBound)
        } else {
            put(scalar)
        }
        if traits.contains(.spaced) { put(Self.blank) }
    }

    /// Adds the letters of a syllable of Hangul (The Unicode Standard, section 3.12).
    private mutating func putLetters(ofSyllable index: UInt32) {
        put(0x1100 + index / 588)
        put(0x1161 + index % 588 / 28)
        if index % 28 > 0 { put(0x11A7 + index % 28) }
    }

    private mutating func put(_ scalar: UInt32) {
        if rules.traits[Int(scalar)].contains(.ordered) {
            marks.append(scalar)
        } else {
            endRun()
            normalised.append(scalar)
        }
    }

    /// Sorts the run of marks by place, equal ones as they stood.
    private mutating func endRun() {
        guard !marks.isEmpty else { return }
        let placed = marks.enumerated().map { index, mark in
            (place: rules.places[mark, default: 0], index: index, mark: mark)
        }
        normalised += placed.sorted { ($0.place, $0.index) < ($1.place, $1.index) }.map(\.mark)
        marks.removeAll(keepingCapacity: true)
    }

    private static let blank: UInt32 = 0x20
    private static let hangul: ClosedRange<UInt32> = 0xAC00...0xD7A3
}

/// The pieces of words, as a tree of Unicode scalars.
private struct Vocabulary: Sendable {
    private struct Edge: Hashable, Sendable {
        let node: Int32
        let scalar: UInt32
    }

    private var children: [Edge: Int32] = [:]
    /// By node, the identifier of the piece that ends there.
    private var ids: [Int32?] = [nil]
    /// Where pieces inside a word begin.
    private var inside: Int32 = 0

    /// The identifier of a piece is its position.
    init(_ pieces: [JSON], insideWord prefix: String) throws {
        for (id, piece) in pieces.enumerated() {
            let node = try Int(add(piece.text()))
            guard ids[node] == nil else { throw piece.error("occurs twice") }
            ids[node] = Int32(id)
        }
        inside = add(prefix)
    }

    /// Returns the longest piece that a word continues with, and the position behind it.
    func longestPiece(of word: [UInt32], from start: Int) -> (id: Int32, end: Int)? {
        var longest: (id: Int32, end: Int)?
        var node = start == 0 ? 0 : inside
        for position in start..<word.count {
            guard let child = children[Edge(node: node, scalar: word[position])] else { break }
            if let id = ids[Int(child)] { longest = (id, position + 1) }
            node = child
        }
        return longest
    }

    private mutating func add(_ text: String) -> Int32 {
        var node: Int32 = 0
        for scalar in text.unicodeScalars {
            let edge = Edge(node: node, scalar: scalar.value)
            if let child = children[edge] {
                node = child
            } else {
                node = Int32(ids.count)
                children[edge] = node
                ids.append(nil)
            }
        }
        return node
    }
}
