// A stub for type-checking alone: signatures of Apple's PhotosUI as far as the example uses them.
// Nothing here runs.
import Foundation
import SwiftUI

public protocol Transferable {}

extension Data: Transferable {}

public struct PHPickerFilter: Sendable {
    public static let images = PHPickerFilter()
}

public struct PhotosPickerItem: Equatable, Sendable {
    public struct EncodingDisambiguationPolicy: Sendable {
        public static let current = EncodingDisambiguationPolicy()
    }

    public func loadTransferable<T: Transferable & Sendable>(
        type: T.Type
    ) async throws -> T? { fatalError() }
}

public struct PhotosPicker: Primitive {
    public init(
        _ title: String, selection: Binding<PhotosPickerItem?>, matching filter: PHPickerFilter,
        preferredItemEncoding: PhotosPickerItem.EncodingDisambiguationPolicy
    ) {}
}
