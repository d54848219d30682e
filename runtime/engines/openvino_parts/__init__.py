"""Parts of the OpenVINO engine: model edits, attention fusion, kernel profiling."""
