// A stub of published signatures, for compiling alone: it never runs.
package android.widget;

import android.content.Context;

public class ScrollView extends FrameLayout {
    public ScrollView(Context context) {
        super(context);
    }
}
