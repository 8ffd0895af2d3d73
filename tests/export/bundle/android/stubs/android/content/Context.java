// A stub of published signatures, for compiling alone: it never runs.
package android.content;

import android.content.res.AssetManager;

public abstract class Context {
    public abstract AssetManager getAssets();
}
