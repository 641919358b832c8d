package manifests

import _ "embed" // for the directives below

//go:embed gatewayctl-agent.service
var unit string

//go:embed sshd_config.d/gatewayctl.conf
var sshd string

// Unit is gatewayctl-agent.service.
func Unit() string { return unit }

// SSHD is sshd_config.d/gatewayctl.conf, for the user gatewayctl.
func SSHD() string { return sshd }
