package ensemble

import android.content.res.AssetManager
import java.io.File
import org.json.JSONArray

/**
 * Answers for test_kotlin.py: a line for each question in the file that is named.
 *
 *     predict FILE MEMBERS ADAPTIVE VALUE     of an image whose values are VALUE
 *     fit FILE WIDTH HEIGHT TO_HEIGHT TO_WIDTH CHANNELS     of ARGB pixels in a JSON file
 */
fun main(arguments: Array<String>) {
    for (line in File(arguments[0]).readLines()) {
        val words = line.split(" ")
        try {
            if (words[0] == "predict") predict(words) else fit(words)
        } catch (error: IllegalArgumentException) {
            println("refused ${error.message}")
        }
    }
}

private fun predict(words: List<String>) {
    val ensemble = Ensemble(AssetManager(), words[1])
    val size = ensemble.file.inputShape.reduce { product, each -> product * each }
    val image = FloatArray(size) { words[4].toFloat() }
    val found = ensemble.predict(image, words[2].toInt(), words[3].toBoolean())
    val name = ensemble.file.classNames?.get(found.klass)
    println("predicted ${found.members} ${found.klass} $name ${found.probabilities.joinToString(" ")}")
    ensemble.close()
}

private fun fit(words: List<String>) {
    val json = JSONArray(File(words[1]).readText())
    val numbers = words.drop(2).map(String::toInt)
    val pixels = IntArray(json.length()) { json.getInt(it) }
    println("fitted " + fit(pixels, numbers[0], numbers[1], numbers.drop(2)).joinToString(" "))
}
