// An example to copy into an app: choose a photo, write a text, read the answer; test and measure
// the device. It is no part of the package, and never ran where the package was made.
import Foundation
import MsdDeploy
import PhotosUI
import SwiftUI

#if canImport(UIKit)
    import UIKit
#endif

struct ClassifierView: View {
    @State private var classifier: MultimodalClassifier?
    @State private var item: PhotosPickerItem?
    @State private var text = ""
    @State private var answer: Classification?
    @State private var differences: [Difference]?
    @State private var benchmark: URL?
    @State private var problem: String?
    @State private var isBusy = false

    var body: some View {
        Form {
            Section {
                // .current: the file as it is stored, with its orientation.
                PhotosPicker(
                    item == nil ? "Choose a photo" : "Choose another photo", selection: $item,
                    matching: .images, preferredItemEncoding: .current
                )
                .onChange(of: item) { _ in answer = nil }
                if item != nil {
                    Button("Without a photo", role: .destructive) { item = nil }
                }
                TextField("Text", text: $text, axis: .vertical)
                    .onChange(of: text) { _ in answer = nil }
                Button("Classify") { run(classify) }
            }
            .disabled(isBusy)
            if let answer { AnswerSection(answer: answer) }
            Section("This device") {
                Group {
                    Button("Self-test") { run(selfTest) }
                    Button("Benchmark") { run(measure) }
                }
                .disabled(isBusy)
                if isBusy { ProgressView("Working") }
                if let differences { DifferencesView(differences: differences) }
                if let benchmark { ShareLink("Share benchmark.json", item: benchmark) }
            }
            if let problem {
                Section { Text(problem).foregroundStyle(.red) }
            }
        }
    }

    /// Loads the model once, and runs one action at a time; the classifier works in the background.
    private func run(_ action: @escaping @MainActor (MultimodalClassifier) async throws -> Void) {
        setBusy(true)
        (answer, differences, benchmark, problem) = (nil, nil, nil, nil)
        Task {
            defer { setBusy(false) }
            do {
                let loaded: MultimodalClassifier
                if let classifier {
                    loaded = classifier
                } else {
                    loaded = try await MultimodalClassifier.load()
                    classifier = loaded
                }
                try await action(loaded)
            } catch {
                problem = error.localizedDescription
            }
        }
    }

    /// Keeps the screen on in the meantime: a device that sleeps stops a benchmark.
    private func setBusy(_ isBusy: Bool) {
        self.isBusy = isBusy
        #if canImport(UIKit)
            UIApplication.shared.isIdleTimerDisabled = isBusy
        #endif
    }

    private func classify(_ classifier: MultimodalClassifier) async throws {
        answer = try await classifier.classify(imageFile: photo(), text: text)
    }

    private func selfTest(_ classifier: MultimodalClassifier) async throws {
        differences = try await classifier.selfTest()
    }

    /// Measures with the photo and the text that are given, or with those of the self-test.
    private func measure(_ classifier: MultimodalClassifier) async throws {
        let result = try await classifier.benchmark(
            photo: photo(), text: text.isEmpty ? nil : text)
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("benchmark.json")
        try result.jsonData().write(to: file)
        benchmark = file
    }

    /// Returns the content of the photo's file; nil: none is chosen.
    ///
    /// - Throws: `BundleError` if one is chosen whose content is not there: not to classify the
    ///   text alone.
    private func photo() async throws -> Data? {
        guard let item else { return nil }
        guard let file = try await item.loadTransferable(type: Data.self) else {
            throw BundleError(
                subject: "photo", problem: "cannot be read", fix: "Choose it again, or another one")
        }
        return file
    }
}

private struct AnswerSection: View {
    let answer: Classification

    var body: some View {
        Section(answer.decided.isEmpty ? "Undecided" : answer.decided.joined(separator: ", ")) {
            ForEach(answer.labels, id: \.name) { label in
                LabeledContent(
                    label.name, value: Double(label.probability),
                    format: .percent.precision(.fractionLength(1)))
            }
            if answer.isTextCut {
                Text("The text is too long: its end was left out.")
            }
        }
    }
}

private struct DifferencesView: View {
    let differences: [Difference]

    var body: some View {
        if differences.isEmpty {
            Text("The self-test passed: this device computes what Python computed.")
        } else {
            Text(differences.map(\.description).joined(separator: "\n"))
        }
    }
}
