// A stub for type-checking alone: signatures of Apple's UIKit as far as the example uses them.
// Nothing here runs.

@MainActor public final class UIApplication {
    public class var shared: UIApplication { fatalError() }
    public var isIdleTimerDisabled: Bool {
        get { fatalError() }
        set { fatalError() }
    }
}
