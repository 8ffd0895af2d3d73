package org.msddeploy.example

import android.app.Activity
import android.content.ActivityNotFoundException
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.Color
import android.net.Uri
import android.os.Bundle
import android.view.View
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import java.io.File
import java.io.IOException
import java.util.Locale
import java.util.concurrent.Executors
import java.util.concurrent.Future
import org.msddeploy.BundleException
import org.msddeploy.Classification
import org.msddeploy.ImageSpec
import org.msddeploy.MultimodalClassifier
import org.msddeploy.Picture
import org.msddeploy.android.BitmapDecoder
import org.msddeploy.android.MultimodalClassifiers
import org.msddeploy.android.benchmarkOnDevice
import org.msddeploy.android.readPhoto

/** One screen to try a bundle: a photo, a text, the answer, the self-test and the benchmark. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()

    // Used by the worker alone.
    private var classifier: MultimodalClassifier? = null
    private var photo: ByteArray? = null

    // Used by the main thread alone.
    private val unfinished = ArrayList<Future<*>>()
    private lateinit var preview: ImageView
    private lateinit var text: EditText
    private lateinit var answer: TextView
    private val buttons = ArrayList<Button>()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(screen())
        work("Loading the model.") { "Choose a photo, or type a text." }
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        super.onActivityResult(requestCode, resultCode, data)
        val uri = data?.data
        if (resultCode == RESULT_OK && uri != null) read(uri)
    }

    override fun onDestroy() {
        unfinished.forEach { it.cancel(true) }
        worker.execute { classifier?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun choose() {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT)
            .addCategory(Intent.CATEGORY_OPENABLE)
            .setType("image/*")
        try {
            startActivityForResult(intent, 0)
        } catch (error: ActivityNotFoundException) {
            answer.text = "This device has no app to choose a photo with ($error)."
        }
    }

    private fun read(uri: Uri) = work("Reading the photo.") { classifier ->
        val file = readPhoto(this, uri)
        val image = classifier.bundle.image
        val shown = BitmapDecoder(image).decode(file).use { modelImage(image, it) }
        photo = file
        showPhoto(shown, "The photo as the model gets it")
        "The photo has ${file.size / 1000} kB."
    }

    private fun remove() = work("Removing the photo.") {
        photo = null
        showPhoto(null, NO_PHOTO)
        "The text is classified alone."
    }

    private fun classify() {
        val typed = text.text.toString()
        work("Classifying.") { classifier ->
            val decoder = BitmapDecoder(classifier.bundle.image)
            described(photo?.let(decoder::decode).use { classifier.classify(it, typed) })
        }
    }

    private fun selfTest() = work("Comparing with Python.") { classifier ->
        val differences = classifier.selfTest(BitmapDecoder(classifier.bundle.image))
        if (differences.isEmpty()) {
            "This device computes what Python computes."
        } else {
            differences.joinToString("\n") { "${it.vector}: ${it.description}" }
        }
    }

    private fun benchmark() {
        val typed = text.text.toString().ifBlank { null }
        work("Measuring, for about 10 seconds.") { classifier ->
            val result = classifier.benchmarkOnDevice(this, photo, typed)
            val file = File(getExternalFilesDir(null) ?: filesDir, "benchmark.json")
            file.writeText(result.toJson())
            val medians = result.latencyMs.map { (view, rounds) ->
                val samples = rounds.flatten().sorted()
                "${view.name.lowercase(Locale.ROOT)}: ${samples[samples.size / 2]} ms"
            }
            (medians + "The result is in $file").joinToString("\n")
        }
    }

    /** Runs a task on the worker and shows its result; of a failure its cause and remedy. */
    private fun work(running: String, task: (MultimodalClassifier) -> String) {
        unfinished += worker.submit {
            val result = try {
                task(loaded())
            } catch (error: Throwable) {
                // Whatever it is, an app to try a bundle shows it.
                described(error)
            }
            runOnUiThread {
                unfinished.removeAt(0)
                show(result)
            }
        }
        show(running)
    }

    private fun loaded(): MultimodalClassifier =
        classifier ?: MultimodalClassifiers.load(this).also { classifier = it }

    private fun show(message: String) {
        answer.text = message
        answer.keepScreenOn = unfinished.isNotEmpty()
        buttons.forEach { it.isEnabled = unfinished.isEmpty() }
    }

    private fun showPhoto(bitmap: Bitmap?, description: String) = runOnUiThread {
        preview.setImageBitmap(bitmap)
        preview.contentDescription = description
    }

    private fun screen(): View {
        preview = ImageView(this).apply { contentDescription = NO_PHOTO }
        // The same number in every process, since the typed text is kept by it.
        text = EditText(this).apply { id = android.R.id.edit }
        answer = TextView(this).apply {
            accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE
            setTextIsSelectable(true)
        }
        val label = TextView(this).apply {
            text = "Text"
            labelFor = this@MainActivity.text.id
        }
        val unit = resources.displayMetrics.density
        val column = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            val margin = (16 * unit).toInt()
            setPadding(margin, margin, margin, margin)
        }
        column.addView(preview, MATCH_PARENT, (200 * unit).toInt())
        column.addButton("Choose a photo", ::choose)
        column.addButton("Remove the photo", ::remove)
        column.addView(label, MATCH_PARENT, WRAP_CONTENT)
        column.addView(text, MATCH_PARENT, WRAP_CONTENT)
        column.addButton("Classify", ::classify)
        column.addView(answer, MATCH_PARENT, WRAP_CONTENT)
        column.addButton("Self-test", ::selfTest)
        column.addButton("Benchmark", ::benchmark)
        return ScrollView(this).apply {
            fitsSystemWindows = true
            addView(column, MATCH_PARENT, WRAP_CONTENT)
        }
    }

    private fun LinearLayout.addButton(name: String, action: () -> Unit) {
        val button = Button(this@MainActivity).apply {
            text = name
            setOnClickListener { action() }
        }
        buttons += button
        addView(button, MATCH_PARENT, WRAP_CONTENT)
    }

    private companion object {
        const val NO_PHOTO = "No photo"

        fun described(answer: Classification): String {
            val labels = answer.labels.map {
                String.format(Locale.ROOT, "%s: %.1f %%", it.label, 100 * it.probability)
            }
            val decided = answer.decided.joinToString().ifEmpty { "Undecided" }
            val cut = listOf("The text was cut.").filter { answer.isTextCut }
            return (listOf(decided) + labels + cut).joinToString("\n")
        }

        fun described(error: Throwable): String = when (error) {
            is BundleException -> error.message ?: "$error"
            is IOException -> "A file cannot be read or written ($error). Try another one."
            is InterruptedException -> "It was interrupted."
            is OutOfMemoryError -> "The memory does not suffice. Choose a smaller photo."
            is LinkageError -> "The APK lacks the runtime for this processor ($error)."
            else -> "It failed: $error"
        }

        fun modelImage(image: ImageSpec, picture: Picture): Bitmap {
            val pixels = image.pixels(picture)
            fun value(at: Int) = pixels[at].toInt() and 255
            val colours = IntArray(image.width * image.height) {
                Color.rgb(value(3 * it), value(3 * it + 1), value(3 * it + 2))
            }
            return Bitmap.createBitmap(
                colours,
                image.width,
                image.height,
                Bitmap.Config.ARGB_8888,
            )
        }
    }
}
