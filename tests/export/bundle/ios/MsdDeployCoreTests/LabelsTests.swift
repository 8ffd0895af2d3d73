import Foundation
import Testing

@testable import MsdDeployCore

private func labels(_ problem: String, _ decision: String, _ point: String? = nil) throws -> Labels
{
    let point = point.map { #", "operating_point": {\#($0)}"# } ?? ""
    let json = """
        {"schema_version": 1, "problem": "\(problem)", "decision": "\(decision)"\(point),
        "labels": ["a", "b", "c"]}
        """
    return try Labels(json: Data(json.utf8))
}

/// Outputs with logits that are in the order of the probabilities.
private func output(_ probabilities: [Float]) -> ModelOutput {
    ModelOutput(logits: probabilities.map { 8 * $0 - 4 }, probabilities: probabilities)
}

private let abstain = "argmax, if probability >= abstain_below"
private let limits = #""abstain_below": {"multimodal": 0.5, "image": 1, "text": 0}"#
private let limitsOfClasses = """
    "rule": "f1", "thresholds": {"multimodal": [0.5, 0.25, 1], "image": [0, 0, 0],
    "text": [0.75, 1, 0.125]}
    """

@Test(arguments: ["single_label", "soft_label"])
func theMostProbableClassIsDecided(problem: String) throws {
    let labels = try labels(problem, "argmax")
    #expect(try labels.decide(output([0.2, 0.5, 0.3]), view: .text) == [1])
    #expect(try labels.decide(output([0.25, 0.5, 0.5]), view: .image) == [1])
    #expect(try labels.decide(output([0, 0, 0]), view: .multimodal) == [0])
}

@Test(arguments: ["single_label", "soft_label"])
func nothingIsDecidedBelowTheThresholdOfTheView(problem: String) throws {
    let labels = try labels(problem, abstain, limits)
    #expect(try labels.decide(output([0.25, 0.5, 0.25]), view: .multimodal) == [1])
    #expect(try labels.decide(output([0.25, Float(0.5).nextDown, 0.25]), view: .multimodal) == [])
    #expect(try labels.decide(output([0, 1, 0]), view: .image) == [])
    #expect(try labels.decide(output([0.25, 0.25, 0.25]), view: .text) == [0])
}

@Test(arguments: ["single_label", "soft_label"])
func theLargestLogitDecidesWhereProbabilitiesRoundToTheSame(problem: String) throws {
    let labels = try labels(problem, "argmax")
    func decided(_ logits: [Float]) throws -> [Int] {
        try labels.decide(.init(logits: logits, probabilities: [1, 1, 1]), view: .text)
    }
    #expect(try decided([18, 20, 19]) == [1])
    #expect(try decided([18, 20, 20]) == [1])
    #expect(try decided([-.infinity, 0, .infinity]) == [2])
}

@Test func everyClassThatReachesItsThresholdIsDecided() throws {
    let plain = try labels("multi_label", "probability >= 0.5")
    #expect(try plain.decide(output([0.5, Float(0.5).nextDown, 1]), view: .image) == [0, 2])
    #expect(try plain.decide(output([0, 0, 0]), view: .image) == [])
    let labels = try labels("multi_label", "probability >= thresholds", limitsOfClasses)
    #expect(try labels.decide(output([0.5, 0.25, 1]), view: .multimodal) == [0, 1])
    #expect(try labels.decide(output([0, 0, 0]), view: .image) == [0, 1, 2])
    #expect(try labels.decide(output([0.5, 1, 0.125]), view: .text) == [2])
}

@Test func aThresholdReplacesThoseOfTheOperatingPoint() throws {
    let single = try labels("single_label", abstain, limits)
    #expect(try single.decide(output([0.25, 0.5, 0.25]), view: .image, threshold: 0.5) == [1])
    #expect(try single.decide(output([0, 1, 0]), view: .text, threshold: 1) == [])
    let multi = try labels("multi_label", "probability >= 0.5")
    #expect(try multi.decide(output([0.25, 0.5, 0.125]), view: .text, threshold: 0.25) == [0, 1])
    for threshold in [-0.1, 1.1, Double.nan] {
        let message = message {
            try multi.decide(output([0, 0, 0]), view: .text, threshold: threshold)
        }
        #expect(message?.hasPrefix("threshold: \(threshold) is not from 0 to 1") == true)
    }
}

@Test func outputsThatAreNoneAreRefused() throws {
    let labels = try labels("single_label", "argmax")
    let invalid: [[Float]] = [
        [], [0.5, 0.5], [0, 0, 0, 1], [0, .nan, 1], [0, -0.1, 1], [0, 0, 1.1], [0, .infinity, 0],
    ]
    for probabilities in invalid {
        let message = message { try labels.decide(output(probabilities), view: .text) }
        #expect(message?.contains("are not 3 numbers from 0 to 1") == true)
    }
    for logits in [[], [0, 1], [0, .nan, 1], [0, 1, 2, 3]] as [[Float]] {
        let message = message {
            try labels.decide(.init(logits: logits, probabilities: [0, 1, 0]), view: .text)
        }
        #expect(message?.hasPrefix("logits: \(logits) are not 3 numbers.") == true)
    }
}

@Test func aMarginIsTheDistanceToAnotherDecision() throws {
    let plain = try labels("single_label", "argmax")
    #expect(try plain.margin([0.25, 0.5, 0.125], view: .text) == 0.125)
    let single = try labels("single_label", abstain, limits)
    #expect(try single.margin([0.125, 0.75, 0.125], view: .multimodal) == 0.25)
    #expect(try single.margin([0, 1, 0], view: .image) == 0.5)
    let multi = try labels("multi_label", "probability >= thresholds", limitsOfClasses)
    #expect(try multi.margin([0.75, 0.375, 1], view: .multimodal) == 0.125)
}

@Test func equivalentNamesAreDifferentLabels() throws {
    let json = try changed(Spec.labels(), "labels", to: #"["\u00e9", "e\u0301"]"#)
    #expect(try Labels(json: json).names.map { $0.unicodeScalars.count } == [1, 2])
}

@Test(arguments: [
    ("schema_version", "2", "schema_version is not 1. Use the Swift package"),
    ("problem", #""ranking""#, #"problem is not one of ["single_label","#),
    ("decision", #""probability >= 0.5""#, #"decision is not "argmax"."#),
    ("operating_point", "{}", #"decision is not "argmax, if"#),
    ("labels", "[]", "labels are empty or repeated"),
    ("labels", #"["a", "a"]"#, "labels are empty or repeated"),
    ("labels", #""a""#, "labels is not a list"),
    ("labels", nil, "has no labels"),
])
func anInvalidLabelsJSONIsRefusedByItsKey(key: String, value: String?, expected: String) throws {
    let json = try changed(Spec.labels(), key, to: value)
    let message = message { try Labels(json: json) }
    #expect(message?.hasPrefix("labels.json: \(expected)") == true, "\(message ?? "no error")")
}

@Test func anInvalidOperatingPointIsRefused() {
    let single = message {
        try labels("single_label", abstain, #""abstain_below": {"multimodal": 1.5, "image": 0}"#)
    }
    #expect(single?.contains("operating_point.abstain_below.multimodal is not a number") == true)
    let multi = message {
        try labels(
            "multi_label", "probability >= thresholds",
            #""thresholds": {"multimodal": [0, 0, 0], "image": [0, 0]}"#)
    }
    #expect(multi?.contains("operating_point.thresholds.image is not one number for") == true)
}
