// A stub of published signatures, for compiling alone: it never runs.
package android.app;

import android.content.Intent;
import android.os.Bundle;
import android.view.ContextThemeWrapper;
import android.view.View;

public class Activity extends ContextThemeWrapper {
    public static final int RESULT_OK = -1;

    protected void onCreate(Bundle savedInstanceState) {
        throw new UnsupportedOperationException("stub");
    }

    protected void onDestroy() {
        throw new UnsupportedOperationException("stub");
    }

    protected void onActivityResult(int requestCode, int resultCode, Intent data) {
        throw new UnsupportedOperationException("stub");
    }

    public void setContentView(View view) {
        throw new UnsupportedOperationException("stub");
    }

    public void startActivityForResult(Intent intent, int requestCode) {
        throw new UnsupportedOperationException("stub");
    }

    public final void runOnUiThread(Runnable action) {
        throw new UnsupportedOperationException("stub");
    }
}
