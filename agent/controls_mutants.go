//go:build mutants

package agent

var offGoodbye, offWord bool

func switchOff(what string) { offGoodbye, offWord = what == "goodbye", what == "word" }
