// A stub of published signatures, for compiling alone: it never runs.
package android.view;

import android.content.Context;

public class View {
    public static final int ACCESSIBILITY_LIVE_REGION_POLITE = 1;

    public View(Context context) {
        throw new UnsupportedOperationException("stub");
    }

    public int getId() {
        throw new UnsupportedOperationException("stub");
    }

    public void setId(int id) {
        throw new UnsupportedOperationException("stub");
    }

    public boolean isEnabled() {
        throw new UnsupportedOperationException("stub");
    }

    public void setEnabled(boolean enabled) {
        throw new UnsupportedOperationException("stub");
    }

    public CharSequence getContentDescription() {
        throw new UnsupportedOperationException("stub");
    }

    public void setContentDescription(CharSequence contentDescription) {
        throw new UnsupportedOperationException("stub");
    }

    public int getAccessibilityLiveRegion() {
        throw new UnsupportedOperationException("stub");
    }

    public void setAccessibilityLiveRegion(int mode) {
        throw new UnsupportedOperationException("stub");
    }

    public int getLabelFor() {
        throw new UnsupportedOperationException("stub");
    }

    public void setLabelFor(int id) {
        throw new UnsupportedOperationException("stub");
    }

    public boolean getKeepScreenOn() {
        throw new UnsupportedOperationException("stub");
    }

    public void setKeepScreenOn(boolean keepScreenOn) {
        throw new UnsupportedOperationException("stub");
    }

    public boolean getFitsSystemWindows() {
        throw new UnsupportedOperationException("stub");
    }

    public void setFitsSystemWindows(boolean fitSystemWindows) {
        throw new UnsupportedOperationException("stub");
    }

    public void setPadding(int left, int top, int right, int bottom) {
        throw new UnsupportedOperationException("stub");
    }

    public void setOnClickListener(OnClickListener l) {
        throw new UnsupportedOperationException("stub");
    }

    public interface OnClickListener {
        void onClick(View v);
    }
}
