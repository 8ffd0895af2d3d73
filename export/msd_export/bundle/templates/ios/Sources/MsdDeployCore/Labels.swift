import Foundation

/// The classes of a model and how its outputs become decisions: labels.json.
public struct Labels: Sendable {
    public enum Problem: String, CaseIterable, Sendable {
        case singleLabel = "single_label"
        case multiLabel = "multi_label"
        case softLabel = "soft_label"
    }

    /// The modalities that the model gets.
    public enum View: String, CaseIterable, Sendable {
        case multimodal, image, text
    }

    public let problem: Problem
    /// Names of the classes in the order of logits and probabilities.
    public let names: [String]
    /// By view, the probability from which each class is decided.
    private let thresholds: [View: [Double]]

    /// Reads the content of labels.json.
    ///
    /// - Throws: `BundleError` that names the key whose value is missing, invalid or unknown.
    public init(json content: Data) throws {
        let json = try JSON(content, file: "labels.json")
        let labels = try json["labels"]
        problem = try json["problem"].choice(Problem.self)
        names = try labels.list().map { try $0.text() }
        // Not as strings: those that Unicode calls equivalent are different labels.
        guard !names.isEmpty, Set(names.map { Array($0.utf8) }).count == names.count else {
            throw labels.error("are empty or repeated")
        }
        let count = names.count
        switch (problem, try json.object()["operating_point"]) {
        case (.multiLabel, nil):
            try json["decision"].check("probability >= 0.5")
            thresholds = Self.byView { _ in Array(repeating: 0.5, count: count) }
        case (.multiLabel, let point?):
            try json["decision"].check("probability >= thresholds")
            thresholds = try Self.byView { view in
                let limits = try point["thresholds"][view.rawValue]
                let numbers = try limits.list().map { try $0.probability() }
                guard numbers.count == count else {
                    throw limits.error("is not one number for each of \(count) labels")
                }
                return numbers
            }
        case (_, nil):
            try json["decision"].check("argmax")
            thresholds = Self.byView { _ in Array(repeating: 0, count: count) }
        case (_, let point?):
            try json["decision"].check("argmax, if probability >= abstain_below")
            thresholds = try Self.byView { view in
                let limit = try point["abstain_below"][view.rawValue].probability()
                return Array(repeating: limit, count: count)
            }
        }
    }

    private static func byView(_ limits: (View) throws -> [Double]) rethrows -> [View: [Double]] {
        try Dictionary(uniqueKeysWithValues: View.allCases.map { try ($0, limits($0)) })
    }

    /// Returns the indices of the classes that are decided, perhaps none.
    ///
    /// Where one class is decided, it is that with the largest logit, of equal ones the first:
    /// probabilities may round to the same number.
    ///
    /// - Parameters:
    ///   - output: The model's.
    ///   - view: The modalities that it got.
    ///   - threshold: From 0 to 1, replaces the thresholds of the operating point. A threshold of
    ///     1 is never reached.
    /// - Throws: `BundleError` if a probability or the threshold is not from 0 to 1, a logit is
    ///   not a number, or there is not one of each for each class.
    public func decide(
        _ output: ModelOutput, view: View, threshold: Double? = nil
    ) throws -> [Int] {
        try check(output)
        let limits = try limits(view, threshold)
        let reached = names.indices.filter {
            limits[$0] < 1 && Double(output.probabilities[$0]) >= limits[$0]
        }
        guard problem != .multiLabel else { return reached }
        let best = ranked(output)[0]
        return reached.filter { $0 == best }
    }

    /// Returns the indices of the classes, the largest logit first, equal ones in their order.
    func ranked(_ output: ModelOutput) -> [Int] {
        let logits = output.logits
        return logits.indices.sorted { (logits[$1], $0) < (logits[$0], $1) }
    }

    /// Returns by how much each probability has to change for another decision.
    func margin(_ probabilities: [Float], view: View) throws -> Double {
        let limits = try limits(view, nil)
        let distances = zip(probabilities, limits).map { $1 < 1 ? abs(Double($0) - $1) : .infinity }
        guard problem != .multiLabel else { return distances.min() ?? 0 }
        let sorted = probabilities.indices.sorted { probabilities[$0] > probabilities[$1] }
        let lead = sorted.count > 1 ? probabilities[sorted[0]] - probabilities[sorted[1]] : 1
        return min(Double(lead) / 2, distances[sorted[0]])
    }

    private func limits(_ view: View, _ threshold: Double?) throws -> [Double] {
        guard let threshold else { return thresholds[view, default: []] }
        guard (0...1).contains(threshold) else {
            throw BundleError(
                subject: "threshold", problem: "\(threshold) is not from 0 to 1",
                fix: "Pass a probability")
        }
        return names.map { _ in threshold }
    }

    private func check(_ output: ModelOutput) throws {
        let (logits, probabilities) = (output.logits, output.probabilities)
        let areInRange = probabilities.allSatisfy { (0...1).contains($0) }
        guard areInRange, probabilities.count == names.count else {
            throw BundleError(
                subject: "probabilities",
                problem: "\(probabilities) are not \(names.count) numbers from 0 to 1",
                fix: "Use the model of the same bundle, and its output probabilities")
        }
        guard logits.count == names.count, !logits.contains(where: \.isNaN) else {
            throw BundleError(
                subject: "logits", problem: "\(logits) are not \(names.count) numbers",
                fix: "Use the model of the same bundle, and its output logits")
        }
    }
}
