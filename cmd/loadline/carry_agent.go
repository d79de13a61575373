//go:build carry_agent

package main

import _ "embed"

//go:embed carried/agent.gz
var agentFile []byte

func init() { carried = agentFile }
