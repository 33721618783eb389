"""From a trained Keras ensemble to one `.tflite` file, and back to what is in it."""
