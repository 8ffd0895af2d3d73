package org.msddeploy.android

import android.content.Context
import org.msddeploy.Bundle
import org.msddeploy.MultimodalClassifier

/** Loads classifiers from the assets of an app. */
public object MultimodalClassifiers {
    /**
     * Loads a bundle and its model, and verifies the SHA-256 of every file.
     *
     * Takes some time: call it on a background thread. Close the classifier to free the model.
     *
     * @param folder Folder of the assets that holds manifest.json.
     * @throws org.msddeploy.BundleException A file is damaged, missing or of an unknown version, or
     *   the runtime cannot load the model.
     */
    @JvmStatic
    @JvmOverloads
    public fun load(context: Context, folder: String = "model"): MultimodalClassifier {
        val start = System.nanoTime()
        val assets = context.assets
        val bundle = Bundle.open { name -> assets.open("$folder/$name") }
        val runtime = openRuntime(bundle)
        return MultimodalClassifier(bundle, runtime, loadMs = (System.nanoTime() - start) / 1e6)
    }
}
