// A stub of published signatures, for compiling alone: it never runs.
package android.widget;

import android.content.Context;
import android.view.View;

public class TextView extends View {
    public TextView(Context context) {
        super(context);
    }

    public CharSequence getText() {
        throw new UnsupportedOperationException("stub");
    }

    public final void setText(CharSequence text) {
        throw new UnsupportedOperationException("stub");
    }

    public void setTextIsSelectable(boolean selectable) {
        throw new UnsupportedOperationException("stub");
    }
}
