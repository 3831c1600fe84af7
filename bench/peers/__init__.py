"""ps-echo on other libraries, each as its own users would write it, on processes of its own."""
