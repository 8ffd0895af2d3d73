// A stub of published signatures, for compiling alone: it never runs.
package android.widget;

import android.content.Context;
import android.view.ViewGroup;

public class LinearLayout extends ViewGroup {
    public static final int VERTICAL = 1;

    public LinearLayout(Context context) {
        super(context);
    }

    public int getOrientation() {
        throw new UnsupportedOperationException("stub");
    }

    public void setOrientation(int orientation) {
        throw new UnsupportedOperationException("stub");
    }
}
