// A stub for type-checking alone: signatures of Apple's SwiftUI as far as the example uses them,
// some of them narrower. Nothing here runs.
import Foundation

@MainActor public protocol View {
    associatedtype Body: View
    @ViewBuilder var body: Body { get }
}

extension Never: View {
    public var body: Never { return fatalError() }
}

extension Optional: View where Wrapped: View {
    public var body: Never { return fatalError() }
}

/// Any view of SwiftUI's own.
@MainActor public protocol Primitive: View where Body == Never {}

extension Primitive {
    public var body: Never { return fatalError() }
}

public struct Blocks<each Content: View>: Primitive {}

public struct Group: Primitive {
    public init<Content: View>(@ViewBuilder content: () -> Content) {}
}

public struct Conditional<True: View, False: View>: Primitive {}

@resultBuilder public enum ViewBuilder {
    public static func buildExpression<Content: View>(_ content: Content) -> Content { content }
    public static func buildBlock<each Content: View>(
        _ content: repeat each Content
    ) -> Blocks<repeat each Content> { fatalError() }
    public static func buildIf<Content: View>(_ content: Content?) -> Content? { content }
    public static func buildEither<True: View, False: View>(
        first: True
    ) -> Conditional<True, False> { fatalError() }
    public static func buildEither<True: View, False: View>(
        second: False
    ) -> Conditional<True, False> { fatalError() }
}

@propertyWrapper public struct State<Value> {
    public init(wrappedValue value: Value) { fatalError() }
    public var wrappedValue: Value {
        get { fatalError() }
        nonmutating set { fatalError() }
    }
    public var projectedValue: Binding<Value> { fatalError() }
}

extension State where Value: ExpressibleByNilLiteral {
    public init() { fatalError() }
}

public struct Binding<Value> {}

public enum Axis { case horizontal, vertical }

public struct ButtonRole: Sendable {
    public static let destructive = ButtonRole()
}

public struct Color: Sendable {
    public static let red = Color()
}

extension View {
    public func onChange<Value: Equatable>(
        of value: Value, perform action: @escaping (Value) -> Void
    ) -> some View { self }
    public func disabled(_ disabled: Bool) -> some View { self }
    public func foregroundStyle(_ style: Color) -> some View { self }
}

public struct Text: Primitive {
    public init(_ content: String) {}
}

public struct ProgressView: Primitive {
    public init(_ title: String) {}
}

public struct TextField: Primitive {
    public init(_ title: String, text: Binding<String>, axis: Axis) {}
}

public struct Button: Primitive {
    public init(
        _ title: String, role: ButtonRole? = nil, action: @escaping @MainActor () -> Void
    ) {}
}

public struct ShareLink: Primitive {
    public init(_ title: String, item: URL) {}
}

public struct LabeledContent: Primitive {
    public init<Format: FormatStyle>(
        _ title: String, value: Format.FormatInput, format: Format
    ) where Format.FormatOutput == String {}
}

public struct ForEach: Primitive {
    public init<Data: RandomAccessCollection, ID: Hashable, Content: View>(
        _ data: Data, id: KeyPath<Data.Element, ID>,
        @ViewBuilder content: @escaping (Data.Element) -> Content
    ) {}
}

public struct Form: Primitive {
    public init<Content: View>(@ViewBuilder content: () -> Content) {}
}

public struct Section: Primitive {
    public init<Content: View>(@ViewBuilder content: () -> Content) {}
    public init<Content: View>(_ title: String, @ViewBuilder content: () -> Content) {}
}
