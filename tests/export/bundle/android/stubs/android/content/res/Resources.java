// A stub of published signatures, for compiling alone: it never runs.
package android.content.res;

import android.util.DisplayMetrics;

public class Resources {
    Resources() {}

    public DisplayMetrics getDisplayMetrics() {
        throw new UnsupportedOperationException("stub");
    }
}
