"""The interactive chat: pure pieces (blocks, conversation, slash) and the terminal around them."""
