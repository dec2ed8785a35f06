"""What the claims of each chapter measure: one module a chapter, one function a measure."""
