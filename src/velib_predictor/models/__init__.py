"""The forecasters: everything from "same as now" to learned ones, behind one contract (`base`)."""
