// An example to copy into an app: choose a photo, write a text, read the answer.
// It is not part of the package, and was never compiled or run where the package was made.
import MsdDeploy
import PhotosUI
import SwiftUI

/// Runs the model in the background, one example at a time.
actor Classifier {
    private var loaded: MultimodalClassifier?

    func classify(imageFile: Data?, text: String) async throws -> Classification {
        let classifier = try await classifier()
        return try classifier.classify(imageFile: imageFile, text: text)
    }

    private func classifier() async throws -> MultimodalClassifier {
        if let loaded { return loaded }
        let classifier = try await MultimodalClassifier.load()
        loaded = classifier
        return classifier
    }
}

struct ClassifierView: View {
    @State private var classifier = Classifier()
    @State private var item: PhotosPickerItem?
    @State private var text = ""
    @State private var answer: Classification?
    @State private var problem: String?
    @State private var isBusy = false

    var body: some View {
        Form {
            Section {
                // .current: the file as it is stored, with its orientation.
                PhotosPicker(
                    item == nil ? "Choose a photo" : "Choose another photo", selection: $item,
                    matching: .images, preferredItemEncoding: .current)
                if item != nil {
                    Button("Without a photo", role: .destructive) { item = nil }
                }
                TextField("Text", text: $text, axis: .vertical)
                Button("Classify") { Task { await classify() } }
                    .disabled(isBusy)
            }
            if let answer { AnswerSection(answer: answer) }
            if let problem {
                Section { Text(problem).foregroundStyle(.red) }
            }
        }
    }

    private func classify() async {
        isBusy = true
        defer { isBusy = false }
        (answer, problem) = (nil, nil)
        do {
            let imageFile = try await item?.loadTransferable(type: Data.self)
            answer = try await classifier.classify(imageFile: imageFile, text: text)
        } catch {
            problem = error.localizedDescription
        }
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
