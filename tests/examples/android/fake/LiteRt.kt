package com.google.ai.edge.litert

import android.content.res.AssetManager
import java.io.File
import org.json.JSONArray

/*
 * LiteRT 2.3's classes, as far as the example uses them, with the signatures of LiteRT's sources.
 *
 * They run no network: the trunk's features are the image, and the logits are those of a table
 * (NAME.json beside the file) times what the member got as its image or features.
 */

enum class Accelerator { NONE, CPU, GPU, NPU }

class TensorBuffer(val name: String) : AutoCloseable {
    private var floats = FloatArray(0)
    private var ints = IntArray(0)

    fun writeFloat(data: FloatArray) { floats = data.copyOf() }
    fun readFloat(): FloatArray = floats.copyOf()
    fun writeInt(data: IntArray) { ints = data.copyOf() }
    fun readInt(): IntArray = ints.copyOf()
    override fun close() {}
}

class CompiledModel private constructor(private val table: JSONArray) : AutoCloseable {
    data class CpuOptions(
        val numThreads: Int? = null,
        val xnnPackFlags: Int? = null,
        val xnnPackWeightCachePath: String? = null
    )

    class Options(internal vararg val accelerators: Accelerator) {
        var cpuOptions: CpuOptions? = null
    }

    fun createInputBuffer(inputName: String, signature: String? = null) = TensorBuffer(inputName)

    fun createOutputBuffer(outputName: String, signature: String? = null) = TensorBuffer(outputName)

    fun run(
        inputs: Map<String, TensorBuffer>,
        outputs: Map<String, TensorBuffer>,
        signature: String? = null
    ) {
        println("ran $signature ${inputs.keys.sorted().joinToString(" ")}")
        inputs.forEach { (name, buffer) -> check(buffer.name == name) }
        val image = (inputs["features_0"] ?: inputs.getValue("image")).readFloat()
        if (signature == "prefix") return outputs.values.forEach { it.writeFloat(image) }
        val member = inputs["member"]?.readInt()?.get(0)
            ?: signature!!.substringAfterLast('_').toIntOrNull() ?: 0
        outputs.forEach { (name, buffer) ->
            val row = table.getJSONArray(name.substringAfter("logits_").toIntOrNull() ?: member)
            buffer.writeFloat(FloatArray(row.length()) { row.getDouble(it).toFloat() * image[0] })
        }
    }

    override fun close() {}

    companion object {
        fun create(
            assetManager: AssetManager,
            assetName: String,
            options: Options = Options(Accelerator.CPU)
        ): CompiledModel {
            check(options.cpuOptions!!.numThreads == 1)
            return CompiledModel(JSONArray(File("$assetName.json").readText()))
        }
    }
}
