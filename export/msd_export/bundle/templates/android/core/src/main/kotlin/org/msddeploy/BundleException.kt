package org.msddeploy

/**
 * The exception of this library: a bundle that cannot be used, or an invalid argument.
 *
 * The message has three parts: the file or argument, what is wrong with it, and what to do.
 */
public class BundleException(message: String, cause: Throwable? = null) :
    RuntimeException(message, cause)
