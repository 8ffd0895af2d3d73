// A stub of published signatures, for compiling alone: it never runs.
package android.content;

public class ActivityNotFoundException extends RuntimeException {
    private static final long serialVersionUID = 1;

    public ActivityNotFoundException() {}
}
