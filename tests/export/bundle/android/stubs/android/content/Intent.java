// A stub of published signatures, for compiling alone: it never runs.
package android.content;

import android.net.Uri;

public class Intent {
    public static final String ACTION_OPEN_DOCUMENT = "android.intent.action.OPEN_DOCUMENT";
    public static final String CATEGORY_OPENABLE = "android.intent.category.OPENABLE";

    public Intent(String action) {
        throw new UnsupportedOperationException("stub");
    }

    public Intent addCategory(String category) {
        throw new UnsupportedOperationException("stub");
    }

    public Intent setType(String type) {
        throw new UnsupportedOperationException("stub");
    }

    public Uri getData() {
        throw new UnsupportedOperationException("stub");
    }
}
