import Foundation

/// An error in a bundle or in an input: what is wrong, with which file or value, and what to do.
public struct BundleError: Error, Equatable, LocalizedError, CustomStringConvertible {
    /// The file, by its path in the bundle, or the argument that is wrong.
    public let subject: String
    /// What is wrong with it.
    public let problem: String
    /// What to do.
    public let fix: String

    public init(subject: String, problem: String, fix: String) {
        (self.subject, self.problem, self.fix) = (subject, problem, fix)
    }

    public var description: String { "\(subject): \(problem). \(fix)." }
    public var errorDescription: String? { description }
}

extension BundleError {
    /// An error in a file that `msd bundle` wrote.
    init(file: String, _ problem: String) {
        self.init(
            subject: file, problem: problem, fix: "Copy the bundle again as msd bundle wrote it")
    }
}
