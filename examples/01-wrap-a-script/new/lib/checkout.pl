print "checkout"
