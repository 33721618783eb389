package ensemble

import android.content.res.AssetManager
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer

/**
 * The answer to an image.
 *
 * @param probabilities of the classes.
 * @param members how many ran.
 */
class Prediction(val probabilities: DoubleArray, val members: Int) {
    /** The index of the likeliest class. */
    val klass = largestIndex(probabilities)
}

/**
 * Runs an ensemble on LiteRT, member by member. Not thread-safe: one object a thread.
 *
 * ```
 * val ensemble = Ensemble(context.assets, "ensemble.tflite")
 * val pixels = IntArray(bitmap.width * bitmap.height)
 * bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
 * val image = fit(pixels, bitmap.width, bitmap.height, ensemble.file.inputShape)
 * val quick = ensemble.predict(image, members = 2)
 * val sure = ensemble.predict(image, isAdaptive = true)
 * ```
 *
 * @param assets of the app.
 * @param name of the file in them.
 * @param threads of a convolution.
 */
class Ensemble(assets: AssetManager, name: String, threads: Int = 1) : AutoCloseable {
    val file = EnsembleFile(assets.open(name).use { it.readBytes() })

    private val model = CompiledModel.create(
        assets, name,
        CompiledModel.Options(Accelerator.CPU).apply {
            cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
        }
    )

    private val firstKey = if (file.hasTrunk) "prefix" else file.key(0)
    private val image = model.createInputBuffer("image", firstKey)
    private val features = if (file.hasTrunk) outputs("prefix") else emptyMap()
    private val number: TensorBuffer? =
        if ("member" in signature(0).inputs) model.createInputBuffer("member", file.key(0)) else null

    /** The logits of a member, or in the layout `branches` of all. */
    private val logits = outputs(file.key(0))

    /**
     * Classifies an image.
     *
     * @param pixels height * width * channels values from 0 to 255, as [fit] gives them.
     * @param members the first m members, or the most that may run.
     * @param isAdaptive whether to stop as soon as the cascade is confident.
     */
    fun predict(
        pixels: FloatArray,
        members: Int = file.members,
        isAdaptive: Boolean = false
    ): Prediction {
        require(members in 1..file.members) { "members must be from 1 to ${file.members}" }
        require(!isAdaptive || file.combination.hasCascade) {
            "The file has no thresholds: larq-ensemble calibrate finds them."
        }
        image.writeFloat(pixels)
        if (file.hasTrunk) model.run(mapOf("image" to image), features, "prefix")
        val rows = ArrayList<FloatArray>()
        for (count in 1..members) {
            if (rows.size < count) rows += run(count - 1)
            if (count == members || isAdaptive) {
                val probabilities = file.combination.predict(rows.take(count))
                if (count == members || file.combination.isConfident(probabilities, count)) {
                    return Prediction(probabilities, count)
                }
            }
        }
        error("not reached")
    }

    /** The logits that the signature of a member gives. */
    private fun run(member: Int): List<FloatArray> {
        number?.writeInt(intArrayOf(member))
        val inputs = signature(member).inputs.associateWith { name ->
            when (name) {
                "image" -> image
                "member" -> number!!
                else -> features.getValue(name)
            }
        }
        model.run(inputs, logits, file.key(member))
        val isOne = "logits" in logits
        return if (isOne) listOf(logits.getValue("logits").readFloat())
        else List(file.members) { logits.getValue("logits_$it").readFloat() }
    }

    private fun signature(member: Int) = file.signatures.getValue(file.key(member))

    private fun outputs(key: String): Map<String, TensorBuffer> =
        file.signatures.getValue(key).outputs.associateWith { model.createOutputBuffer(it, key) }

    override fun close() {
        (listOfNotNull(image, number) + features.values + logits.values).forEach { it.close() }
        model.close()
    }
}
