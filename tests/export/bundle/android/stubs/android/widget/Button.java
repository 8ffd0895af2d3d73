// A stub of published signatures, for compiling alone: it never runs.
package android.widget;

import android.content.Context;

public class Button extends TextView {
    public Button(Context context) {
        super(context);
    }
}
