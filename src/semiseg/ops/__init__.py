"""Pure tensor functions: everything the methods' equations are made of. Nothing here knows files or engines."""
