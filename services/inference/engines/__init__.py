"""The engines that inference can drive, behind one protocol."""
