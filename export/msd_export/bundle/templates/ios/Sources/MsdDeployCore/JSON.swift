import Foundation

/// A value of a JSON file, with its place in the file for errors.
///
/// Each accessor throws a `BundleError` that names the place if the value is another one.
struct JSON {
    fileprivate enum Value {
        case null
        case bool(Bool)
        case number(Double)
        case text(String)
        case list([Value])
        case object([String: Value])
    }

    private let value: Value
    private let file: String
    private let path: String

    private init(_ value: Value, file: String, path: String) {
        (self.value, self.file, self.path) = (value, file, path)
    }

    /// Reads the content of a file: an object of `schema_version` 1.
    init(_ content: Data, file: String) throws {
        // JSONDecoder also reads UTF-16 and UTF-32, which have zeros.
        guard !content.contains(0),
            let decoded = try? JSONDecoder().decode(Value.self, from: content)
        else { throw BundleError(file: file, "is not JSON in UTF-8") }
        if let key = repeatedKey(content) {
            throw BundleError(file: file, "has the key \(key) twice")
        }
        (value, self.file, path) = (decoded, file, "")
        guard case .number(1) = try self["schema_version"].value else {
            throw BundleError(
                subject: file, problem: "schema_version is not 1",
                fix: "Use the Swift package of the msd-deploy version that wrote the file")
        }
    }

    /// The value of a key.
    subscript(key: String) -> JSON {
        get throws {
            guard let found = try object()[key] else { throw error("has no \(key)") }
            return found
        }
    }

    func object() throws -> [String: JSON] {
        guard case .object(let values) = value else { throw error("is not an object") }
        return Dictionary(
            uniqueKeysWithValues: values.map { key, value in
                (key, JSON(value, file: file, path: path.isEmpty ? key : "\(path).\(key)"))
            })
    }

    func list() throws -> [JSON] {
        guard case .list(let values) = value else { throw error("is not a list") }
        return values.enumerated().map { JSON($1, file: file, path: "\(path)[\($0)]") }
    }

    /// Returns a list of one value or more.
    func filledList() throws -> [JSON] {
        let values = try list()
        guard !values.isEmpty else { throw error("is empty") }
        return values
    }

    func text() throws -> String {
        guard case .text(let text) = value else { throw error("is not a text") }
        return text
    }

    func textOrNull() throws -> String? {
        if case .null = value { return nil }
        return try text()
    }

    func bool() throws -> Bool {
        guard case .bool(let bool) = value else { throw error("is not true or false") }
        return bool
    }

    func int(from lowest: Int, to highest: Int) throws -> Int {
        guard case .number(let number) = value, let int = Int(exactly: number), int >= lowest,
            int <= highest
        else { throw error("is not a whole number from \(lowest) to \(highest)") }
        return int
    }

    func probability() throws -> Double {
        guard case .number(let number) = value, (0...1).contains(number) else {
            throw error("is not a number from 0 to 1")
        }
        return number
    }

    /// Returns one of the known texts of an enumeration.
    func choice<Choice: CaseIterable & RawRepresentable<String>>(_: Choice.Type) throws -> Choice {
        guard case .text(let text) = value, let choice = Choice(rawValue: text) else {
            throw error("is not one of \(Choice.allCases.map(\.rawValue))")
        }
        return choice
    }

    /// Checks that the value is the only known one.
    func check(_ known: String) throws {
        guard case .text(known) = value else { throw error("is not \"\(known)\"") }
    }

    func error(_ problem: String) -> BundleError {
        BundleError(file: file, path.isEmpty ? problem : "\(path) \(problem)")
    }
}

extension JSON.Value: Decodable {
    init(from decoder: any Decoder) throws {
        // JSONDecoder takes microseconds for each type that does not fit, so that long lists of one
        // type are not decoded value by value.
        let container = try decoder.singleValueContainer()
        if let text = try? container.decode(String.self) {
            self = .text(text)
        } else if let number = try? container.decode(Double.self) {
            self = .number(number)
        } else if let numbers = try? container.decode([Double].self) {
            self = .list(numbers.map(Self.number))
        } else if let lists = try? container.decode([[Double]].self) {
            self = .list(lists.map { .list($0.map(Self.number)) })
        } else if let texts = try? container.decode([String].self) {
            self = .list(texts.map(Self.text))
        } else if let list = try? container.decode([Self].self) {
            self = .list(list)
        } else if let bool = try? container.decode(Bool.self) {
            self = .bool(bool)
        } else if container.decodeNil() {
            self = .null
        } else {
            self = .object(try container.decode([String: Self].self))
        }
    }
}

/// Returns a key that an object of valid JSON has twice, of which JSONDecoder drops one; or nil.
private func repeatedKey(_ json: Data) -> String? {
    let (quote, backslash) = (UInt8(ascii: "\""), UInt8(ascii: "\\"))
    return json.withUnsafeBytes { bytes in
        /// Of each list and object that is open.
        var keys: [Set<String>] = []
        var index = 0
        while index < bytes.count {
            defer { index += 1 }
            switch bytes[index] {
            case UInt8(ascii: "{"), UInt8(ascii: "["): keys.append([])
            case UInt8(ascii: "}"), UInt8(ascii: "]"): keys.removeLast()
            case quote:
                let start = index
                repeat { index += bytes[index] == backslash ? 2 : 1 } while bytes[index] != quote
                let next = bytes[(index + 1)...].first { !" \t\r\n".utf8.contains($0) }
                guard next == UInt8(ascii: ":") else { continue }
                let list = "[\(String(decoding: bytes[start...index], as: UTF8.self))]"
                let key = try? JSONDecoder().decode([String].self, from: Data(list.utf8))[0]
                if let key, !keys[keys.count - 1].insert(key).inserted { return key }
            default: break
            }
        }
        return nil
    }
}

/// Returns the content of a file below a folder.
///
/// - Throws: `BundleError` if it cannot be read.
func readFile(_ name: String, in folder: URL) throws -> Data {
    do {
        return try Data(contentsOf: folder.appendingPathComponent(name))
    } catch {
        throw BundleError(
            file: name, "cannot be read in \(folder.path) (\(error.localizedDescription))")
    }
}
