package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hostinit:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want segment DIR, host NAME DISK DIR or enter PID ARGV")
	}
	switch verb, args := args[0], args[1:]; {
	case verb == "segment" && len(args) == 1:
		return segment(args[0])
	case verb == "host" && len(args) == 3:
		return host(args[0], args[1], args[2])
	case verb == "enter" && len(args) >= 2:
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return fmt.Errorf("reading the process id: %w", err)
		}
		return enter(pid, args[1:])
	case verb == "become":
		return become(args)
	default:
		return fmt.Errorf("unknown arguments %q", os.Args[1:])
	}
}

// ready tells the lab that the namespace is made; it reads our standard output until then.
func ready() error {
	if _, err := fmt.Println("ready"); err != nil {
		return fmt.Errorf("telling the lab that we are ready: %w", err)
	}
	return os.Stdout.Close()
}

// awaitLab returns when the lab is gone. Signals from a terminal are not for us: the lab gets them and decides.
func awaitLab() {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	_, _ = io.Copy(io.Discard, os.NewFile(3, "lifeline"))
}

// segment holds the network namespace of the bridge and a tmpfs in which the hosts' disks lie. The tmpfs exists in this
// mount namespace only, so that the machine's mount table never shows a lab.
func segment(dir string) error {
	disks := dir + "/disks"
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := os.Mkdir(disks, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("lab", disks, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting %s: %w", disks, err)
	}
	if err := ready(); err != nil {
		return err
	}
	awaitLab()
	if err := syscall.Unmount(disks, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", disks, err)
	}
	return os.RemoveAll(dir)
}
